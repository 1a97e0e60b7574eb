"""An HTTP service of one model: predictions, attention over the picture, metrics, and a page to try it on.

Names are imported from their files (`settings.Settings`, `served.ServedModel`, `app.make_app`, `server.serve`): they
need Starlette and uvicorn, which `pip install 'crosscale[serve]'` brings.
"""
