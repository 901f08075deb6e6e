"""`python -m cortex`: the command line."""

from cortex.cli import main

raise SystemExit(main())
