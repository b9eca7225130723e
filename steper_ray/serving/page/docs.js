/** Shows openapi.json, beside this page, in Swagger UI; an API key that is entered stays in this page until it is closed. */
SwaggerUIBundle({ url: "openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
