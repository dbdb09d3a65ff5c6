"""Waits until this pod can have its account's token, in an init container.

GKE's metadata server may not answer in the first seconds of a pod, and a client of the bucket that asks it
then goes on as nobody. Ends with status 1 after five minutes; the pod is then replaced.
"""

import os
import sys
import time
import urllib.request

SERVER = os.environ.get("GCE_METADATA_HOST", "169.254.169.254")
TOKEN = f"http://{SERVER}/computeMetadata/v1/instance/service-accounts/default/token"
LONGEST = 300.0  # seconds

asked = urllib.request.Request(TOKEN, headers={"Metadata-Flavor": "Google"})
deadline = time.monotonic() + LONGEST
while True:
    try:
        urllib.request.urlopen(asked, timeout=5).close()
        break
    except OSError as error:  # refused, in silence, or an HTTP status other than 200
        if time.monotonic() > deadline:
            sys.exit(f"no token from {TOKEN} in {LONGEST:.0f} s: {error}")
        time.sleep(1)
