"""Backends under the paths that programs written for SGLang import, and the interface that third parties
wrote backends to. Nothing in the language imports this.
"""
