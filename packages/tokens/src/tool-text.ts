import { isJsonObject, type Json, type JsonObject, MillraceError, type Tool } from '@millrace/core'

/** Where a union of types is written: newer models get one alternative a line. */
export type UnionStyle = 'inline' | 'lines'

/**
 * The tools as the model reads them: OpenAI does not show it JSON Schema but TypeScript declarations (found out by
 * experiment, and confirmed by what the API charges).
 *
 * @throws {MillraceError} `invalid-request` for a schema nested deeper than 200 levels, as one with a cycle is
 */
export function toolText(tools: readonly Tool[], unions: UnionStyle): string {
  const lines = ['# Tools', '', '## functions', '', 'namespace functions {', '']
  for (const { name, description, parameters = {} } of tools) {
    if (description) lines.push(comment(description, ''))
    lines.push(
      hasProperties(parameters)
        ? `type ${name} = (_: ${argumentsText(parameters, unions)}) => any;`
        : `type ${name} = () => any;`,
      ''
    )
  }
  lines.push('} // namespace functions')
  return lines.join('\n')
}

/** Where no property has a comment, a union or properties of its own, all stand on one line. */
function argumentsText(schema: JsonObject, unions: UnionStyle): string {
  const fields = fieldsText(schema, 0, unions)
  const lines = fields.flat()
  const isShort = lines.length === fields.length && lines.every((line) => line.endsWith(',') && !line.includes('\n'))
  const hasUnion = Object.values(schema.properties as JsonObject).some(
    (property) => isJsonObject(property) && alternatives(property) !== undefined
  )
  return isShort && !hasUnion ? `{ ${lines.join(' ').slice(0, -1)} }` : `{\n${lines.join('\n')}\n}`
}

/** As `checkRequest` has it. Not cut short here: a schema that refers to itself twice has 2^200 ends, this is the first. */
const maxDepth = 200

function tooDeep(cause?: unknown): MillraceError<'invalid-request'> {
  const message = `tools hold a schema that is nested deeper than ${maxDepth} levels or refers back to itself (a cycle)`
  return new MillraceError('invalid-request', message, { details: { path: 'tools' }, cause })
}

function written(value: Json): string {
  try {
    return JSON.stringify(value)
  } catch (cause) {
    throw tooDeep(cause)
  }
}

/** For each property its lines. */
function fieldsText(schema: JsonObject, depth: number, unions: UnionStyle): string[][] {
  const properties = isJsonObject(schema.properties) ? schema.properties : {}
  const required = Array.isArray(schema.required) ? new Set<Json>(schema.required) : undefined
  const indent = ' '.repeat(Math.min(depth, 8))
  const fields: string[][] = []
  for (const [name, property] of Object.entries(properties)) {
    if (!isJsonObject(property)) continue
    const { title, description } = property
    const lines: string[] = []
    // Titles and descriptions further down are seen to cost nothing.
    if (depth < 2) {
      if (typeof title === 'string') lines.push(comment(title, indent))
      if (typeof title === 'string' && typeof description === 'string') lines.push(`${indent}//`)
      if (typeof description === 'string') lines.push(comment(description, indent))
    }
    const preset = property.default === undefined ? '' : ` // default: ${written(property.default)}`
    lines.push(`${indent}${name}${required?.has(name) === true ? '' : '?'}:${fieldType(property, depth, unions)},${preset}`)
    fields.push(lines)
  }
  return fields
}

function fieldType(property: JsonObject, depth: number, unions: UnionStyle): string {
  const choices = alternatives(property)
  if (unions === 'inline' || choices === undefined || depth > 0) return ` ${typeText(property, depth, unions)}`
  const lines = choices.map((choice) => {
    const format = isJsonObject(choice) && typeof choice.format === 'string' ? ` // format: ${choice.format}` : ''
    return ` | ${isJsonObject(choice) ? typeText(choice, depth + 1, unions) : 'any'}${format}\n`
  })
  return `\n${lines.join('')}`
}

function alternatives(schema: JsonObject): readonly Json[] | undefined {
  const choices = schema.anyOf ?? schema.oneOf
  return Array.isArray(choices) && !Array.isArray(schema.enum) ? choices : undefined
}

function typeText(schema: JsonObject, depth: number, unions: UnionStyle): string {
  if (depth > maxDepth) throw tooDeep()
  if (Array.isArray(schema.enum)) return schema.enum.map(written).join(' | ')
  const choices = alternatives(schema)
  if (choices !== undefined) {
    return choices.map((choice) => (isJsonObject(choice) ? typeText(choice, depth + 1, unions) : 'any')).join(' | ')
  }
  const { type } = schema
  if (Array.isArray(type)) {
    // Each once: every one of them writes down all that is below it.
    return [...new Set(type)]
      .map((one: Json) => (typeof one === 'string' ? typeText({ ...schema, type: one }, depth + 1, unions) : 'any'))
      .join(' | ')
  }
  switch (type) {
    case 'integer':
      return 'number'
    case 'string':
    case 'number':
    case 'boolean':
    case 'null':
      return type
    case 'array':
      return isJsonObject(schema.items) ? `${typeText(schema.items, depth + 1, unions)}[]` : 'any[]'
    case 'object':
      return hasProperties(schema)
        ? `{\n${fieldsText(schema, depth + 2, unions)
            .flat()
            .join('\n')}\n}`
        : 'object'
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
