"use strict";

// Relative, so that the page also works behind a proxy that adds a path prefix.
SwaggerUIBundle({
  url: "../openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  tryItOutEnabled: true,
  // The default validator is a web service, and this page works offline.
  validatorUrl: null,
});
