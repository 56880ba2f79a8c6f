"""The template's process: ``python -m service.engine.workers FD``, started by the front."""

import sys

from service.engine.workers.template import main

main(int(sys.argv[1]))
