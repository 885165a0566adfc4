"""The notebooks as a workbook: executed, recorded, shown, and the README's tables.

runs    a copy with other parameters, whole or not at all
record  in place with the defaults, as it is committed
report  all of them as a static site
readme  tables from committed rows
"""
