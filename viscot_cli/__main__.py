"""``python -m viscot_cli`` is ``viscot``, for an environment that is not activated."""

import sys

from viscot_cli.app import main

sys.exit(main())
