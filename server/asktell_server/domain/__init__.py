"""The words of the field, with the rules that hold for them. Standard library only; nothing here does I/O."""
