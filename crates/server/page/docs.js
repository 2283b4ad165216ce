// The API reference: the server's own OpenAPI document, as a page.

const document_ = await (await fetch("/openapi.json")).json();
const schemas = document_.components.schemas;
const log = document.getElementById("log");

function make(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** A link to a schema's own section, or a short name of a type. */
function type(schema) {
  if (!schema || schema === true) return ["any"];
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    const link = make("a", "", name);
    link.href = `#${name}`;
    return [link];
  }
  const options = (schema.oneOf ?? schema.anyOf)?.filter((option) => option.type !== "null");
  if (options) return options.flatMap((option, index) => (index ? [" or ", ...type(option)] : type(option)));
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" | ")];
  const kinds = [schema.type].flat().filter((kind) => kind && kind !== "null");
  if (kinds[0] === "array") return ["list of ", ...type(schema.items)];
  if (schema.additionalProperties) return ["map of ", ...type(schema.additionalProperties)];
  return [kinds.join(" or ") || "any"];
}

/** Fields of an object, those of its flattened parts included. */
function fields(schema) {
  const parts = (schema.allOf ?? []).flatMap((part) => fields(part.$ref ? schemas[part.$ref.split("/").at(-1)] : part));
  const own = Object.entries(schema.properties ?? {}).map(([name, field]) => ({
    name, field, required: schema.required?.includes(name),
  }));
  return [...own, ...parts];
}

function table(schema) {
  const rows = fields(schema).map(({ name, field, required }) =>
    make("tr", "", make("td", "", make("code", "", name), required ? " *" : ""), make("td", "", ...type(field)), make("td", "", field.description ?? "")),
  );
  return rows.length ? make("table", "", make("tbody", "", ...rows)) : make("p", "", ...type(schema));
}

function endpoint(path, method, operation) {
  const section = make("section", "", make("h3", "", make("code", "", `${method.toUpperCase()} ${path}`)));
  section.append(make("p", "", operation.description ?? operation.summary ?? ""));
  for (const [kind, content] of Object.entries(operation.requestBody?.content ?? {})) {
    section.append(make("p", "", `Request (${kind}): `, ...type(content.schema)));
  }
  const list = make("ul", "");
  for (const [status, response] of Object.entries(operation.responses)) {
    const bodies = Object.entries(response.content ?? {}).flatMap(([kind, content]) => [` · ${kind}: `, ...type(content.schema)]);
    list.append(make("li", "", make("code", "", status), ` ${response.description}`, ...bodies));
  }
  section.append(list);
  return section;
}

log.append(make("h2", "", "Endpoints"));
for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, operation] of Object.entries(methods)) log.append(endpoint(path, method, operation));
}
log.append(make("h2", "", "Types"));
for (const [name, schema] of Object.entries(schemas)) {
  const section = make("section", "", make("h3", "", name), make("p", "", schema.description ?? ""), table(schema));
  section.id = name;
  log.append(section);
}
document.getElementById(location.hash.slice(1))?.scrollIntoView();
