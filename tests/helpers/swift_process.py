"""One OpenStack Swift with its S3 API in one process: account, container, object and proxy server.

    python swift_process.py FOLDER PORT ACCESS_KEY SECRET_KEY

FOLDER is private to this server and lies on a file system with user attributes. The line ``ready``
on standard output says that it answers.
"""

from __future__ import annotations

import sys
from pathlib import Path

DEVICE = "disk"

PROXY = """
[DEFAULT]
swift_dir = {folder}
log_address = /dev/null
log_level = ERROR

[pipeline:main]
pipeline = catch_errors proxy-logging s3api tempauth slo versioned_writes symlink proxy-logging proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:proxy-logging]
use = egg:swift#proxy_logging

[filter:s3api]
use = egg:swift#s3api
location = us-east-1
min_segment_size = 1048576

[filter:tempauth]
use = egg:swift#tempauth
user_{access} = {secret} .admin

[filter:slo]
use = egg:swift#slo

[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
allow_versioned_writes = true

[filter:symlink]
use = egg:swift#symlink
"""


def main(folder: Path, port: int, access: str, secret: str) -> None:
    import eventlet
    from eventlet import wsgi
    from swift.common import utils

    utils.monkey_patch()
    (folder / DEVICE).mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n"
    )
    utils.set_swift_dir(str(folder))
    account_name, user = access.split(":")
    proxy_conf = folder / "proxy-server.conf"
    proxy_conf.write_text(
        PROXY.format(folder=folder, access=f"{account_name}_{user}", secret=secret)
    )

    from swift.account.server import AccountController
    from swift.common.http_protocol import SwiftHttpProtocol
    from swift.common.ring import RingData
    from swift.common.wsgi import loadapp
    from swift.container.server import ContainerController
    from swift.obj.server import ObjectController

    conf = {
        "devices": str(folder), "swift_dir": str(folder), "mount_check": "false",
        "log_address": "/dev/null", "allowed_sync_hosts": "127.0.0.1",
    }  # fmt: skip
    quiet = utils.get_logger({"log_address": "/dev/null", "log_level": "CRITICAL"})
    back_ends = {"account": AccountController, "container": ContainerController}
    listening = {name: eventlet.listen(("127.0.0.1", 0)) for name in (*back_ends, "object")}
    for name, socket in listening.items():
        device = {
            "id": 0, "zone": 0, "region": 1, "device": DEVICE, "weight": 1.0,
            "ip": "127.0.0.1", "port": socket.getsockname()[1],
        }  # fmt: skip
        RingData([[0, 0, 0, 0]], [device], 30).save(str(folder / f"{name}.ring.gz"))
    applications = {name: make(conf) for name, make in back_ends.items()}
    applications["object"] = ObjectController(conf, quiet)
    servers = [(listening[name], application) for name, application in applications.items()]
    servers.append((eventlet.listen(("127.0.0.1", port)), loadapp(str(proxy_conf))))
    running = [
        eventlet.spawn(
            wsgi.server, socket, application, quiet, protocol=SwiftHttpProtocol, log_output=False
        )
        for socket, application in servers
    ]
    print("ready", flush=True)
    for thread in running:
        thread.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
