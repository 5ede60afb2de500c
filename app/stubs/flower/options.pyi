# What we use of a package that has no types of its own.
from tornado.options import OptionParser

options: OptionParser
