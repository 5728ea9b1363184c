import { isJsonObject, type Json, type JsonObject, MillraceError, type Tool } from '@millrace/core'

/**
 * The tools as the model reads them: OpenAI does not show it JSON Schema but TypeScript declarations (found out by
 * experiment, and confirmed by what the API charges).
 *
 * @throws {MillraceError} `invalid-request` for a schema nested deeper than 200 levels, as one with a cycle is
 */
export function toolText(tools: readonly Tool[]): string {
  const lines = ['namespace functions {', '']
  for (const { name, description, parameters = {} } of tools) {
    if (description) lines.push(comment(description, ''))
    if (hasProperties(parameters)) lines.push(`type ${name} = (_: {`, fieldsText(parameters, 0), '}) => any;', '')
    else lines.push(`type ${name} = () => any;`, '')
  }
  lines.push('} // namespace functions')
  return lines.join('\n')
}

/** As `checkRequest` has it. Not cut short here: a schema that refers to itself twice has 2^200 ends, this is the first. */
const maxDepth = 200

function tooDeep(): MillraceError<'invalid-request'> {
  const message = `tools hold a schema that is nested deeper than ${maxDepth} levels or refers back to itself (a cycle)`
  return new MillraceError('invalid-request', message, { details: { path: 'tools' } })
}

function fieldsText(schema: JsonObject, depth: number): string {
  const properties = isJsonObject(schema.properties) ? schema.properties : {}
  const required = Array.isArray(schema.required) ? new Set<Json>(schema.required) : undefined
  const indent = ' '.repeat(Math.min(depth, 8))
  const lines: string[] = []
  for (const [name, property] of Object.entries(properties)) {
    if (!isJsonObject(property)) continue
    // Titles and descriptions further down are seen to cost nothing.
    if (depth < 2) {
      if (typeof property.title === 'string') lines.push(comment(property.title, indent), `${indent}//`)
      if (typeof property.description === 'string') lines.push(comment(property.description, indent))
    }
    const preset = property.default === undefined ? '' : ` // default: ${JSON.stringify(property.default)}`
    lines.push(`${indent}${name}${required?.has(name) === true ? '' : '?'}: ${typeText(property, depth)},${preset}`)
  }
  return lines.join('\n')
}

function typeText(schema: JsonObject, depth: number): string {
  if (depth > maxDepth) throw tooDeep()
  if (Array.isArray(schema.enum)) return schema.enum.map((value: Json) => JSON.stringify(value)).join(' | ')
  const alternatives = schema.anyOf ?? schema.oneOf
  if (Array.isArray(alternatives)) {
    return alternatives.map((choice: Json) => (isJsonObject(choice) ? typeText(choice, depth + 1) : 'any')).join(' | ')
  }
  switch (schema.type) {
    case 'integer':
      return 'number'
    case 'string':
    case 'number':
    case 'boolean':
    case 'null':
      return schema.type
    case 'array':
      return isJsonObject(schema.items) ? `${typeText(schema.items, depth + 1)}[]` : 'any[]'
    case 'object':
      return hasProperties(schema) ? `{\n${fieldsText(schema, depth + 2)}\n}` : 'object'
    default:
      return 'any'
  }
}

function hasProperties(schema: JsonObject): boolean {
  return isJsonObject(schema.properties) && Object.keys(schema.properties).length > 0
}

function comment(text: string, indent: string): string {
  return `${indent}// ${text.replaceAll('\n', `\n${indent}// `)}`
}
