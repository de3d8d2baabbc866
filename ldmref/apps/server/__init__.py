"""`ldmref serve`: an engine that generates for several clients, and its HTTP interfaces.

`engine` holds the models, a queue and a worker per device; it needs no web library. `native` is the
HTTP interface of ldmref itself, `app` puts all interfaces together.

    from ldmref.apps.server.app import create_app
    from ldmref.apps.server.engine import Engine

    app = create_app(Engine({"emoji": ldmref.load()}))

`app` is an ASGI application; it needs `pip install 'ldmref[server]'`.
"""
