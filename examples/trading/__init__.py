"""A trading desk: a Flask application with ten background jobs. How to run it: README.md."""

import logging
import os

from flask import Flask

from otel_logging import setup_observability
from trading import timetable
from trading.desk import Desk
from trading.exchange import Exchange
from trading.routes import routes


def create_app() -> Flask:
    """Make the application, and start its jobs. TRADING_SPEED=60: a minute passes in a second."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    setup_observability("trading")
    app = Flask(__name__)
    app.config["SPEED"] = float(os.environ.get("TRADING_SPEED", "1"))
    app.extensions["desk"] = Desk(Exchange(app.config["SPEED"]))
    app.register_blueprint(routes)
    timetable.start(app)
    app.logger.info("trading desk open, %s times as fast as the clock", app.config["SPEED"])
    return app
