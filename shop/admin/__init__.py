"""What staff sees and does. Nobody edits or deletes what the system wrote: changes go the ways that clients' changes go.

Who may do what, by Django's permissions:

    view_order, view_product, view_stockmovement, view_apikey, view_pausechange, view_logentry    look at them
    change_order          cancel orders, put them in line again
    add_stockmovement     move stock
    add_apikey            make API keys
    change_apikey         end API keys
    add_pausechange       pause intake and fulfilment, and resume them, on the live board
"""

from shop.admin import api_keys, log, movements, orders, products

__all__ = ["api_keys", "log", "movements", "orders", "products"]
