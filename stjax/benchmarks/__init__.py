"""What `stjax bench` measures, beside what it is measured against."""
