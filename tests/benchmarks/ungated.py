"""`manage.py` whose web processes take in whatever comes, to see what `shop/web/gate.py` is worth."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    sys.argv[0] = "manage.py"  # by which settings know what needs no running system
    os.environ |= {"DJANGO_SETTINGS_MODULE": "shop.settings", "UNGUARDED": "gate"}
    from shop.management import system

    system.WEB_MODULE = "tests.unguarded_web"
    execute_from_command_line(sys.argv)
