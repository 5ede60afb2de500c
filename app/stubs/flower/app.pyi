# What we use of a package that has no types of its own.
from typing import Any

from tornado.ioloop import IOLoop
from tornado.web import Application

class Flower(Application):
    io_loop: IOLoop
    def __init__(self, **arguments: Any) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
