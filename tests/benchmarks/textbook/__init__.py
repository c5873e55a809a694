"""The order intake that a competent team writes on its first day with Django and Celery, to be measured beside this one.

Every part is the stock one, used as its documentation says. `ORDER_TASK` chooses what an order's task does:
`fulfil_order`, or `do_nothing`, which shows what view, queue, worker and result backend cost by themselves.
"""
