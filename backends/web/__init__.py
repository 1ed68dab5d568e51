"""What is published for browsers and Node: WebAssembly, an ES module, types and a demo page."""
