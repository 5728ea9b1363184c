import { MillraceError, parseJson, type ResponseFormat, type ToolCall } from '@millrace/core'

/**
 * JSON without the spaces between its values, as a model reads the arguments of its calls. Text that is no JSON goes through
 * likewise; nothing is parsed, so nothing is too deep.
 */
export function compactJson(text: string): string {
  return respaced(text, '')
}

/** The arguments of parallel calls are one call, of a tool that takes them as JSON. */
export function parallelCallText(calls: readonly ToolCall[]): string {
  const uses = calls.map(
    ({ name, arguments: given }) => `{"recipient_name":"functions.${name}","parameters":${compactJson(given)}}`
  )
  return `{"tool_uses":[${uses.join(',')}]}`
}

/**
 * A result of parallel calls as the model reads it: JSON in Python's spacing, in which everything that is not ASCII is
 * escaped. That makes a Korean result twelve times as dear; the API does charge it.
 */
export function parallelResultText(result: string): string {
  const json = parseJson(result) === undefined ? JSON.stringify(result) : respaced(result, ' ')
  return json.replace(/[\u0080-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/**
 * The schema of a structured answer, as the model reads it: what is required and what is forbidden goes without saying.
 *
 * @throws {MillraceError} `invalid-request` for a schema that has a cycle or is far too deep
 */
export function formatText({ name, description, schema }: Extract<ResponseFormat, { type: 'json-schema' }>): string {
  const { description: ofSchema, ...rest } = schema
  const told = description ?? (typeof ofSchema === 'string' ? ofSchema : undefined)
  const head = `# Response Formats\n\n## ${name}\n\n${told === undefined ? '' : `// ${told}\n`}`
  try {
    return head + JSON.stringify(rest, withoutRules)
  } catch (cause) {
    const message = 'responseFormat.schema refers back to itself (a cycle) or is nested too deep'
    throw new MillraceError('invalid-request', message, { details: { path: 'responseFormat.schema' }, cause })
  }
}

function withoutRules(key: string, value: unknown): unknown {
  // Not where it is the name of a property: its value is a schema then.
  if (key === 'additionalProperties' && typeof value === 'boolean') return undefined
  return key === 'required' && Array.isArray(value) ? undefined : value
}

/** Linear, and without recursion: both are a must for text that a model or a tool wrote. */
function respaced(text: string, space: '' | ' '): string {
  let out = ''
  let from = 0
  let inString = false
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at)
    if (inString) {
      if (unit === 92) at++
      else if (unit === 34) inString = false
    } else if (unit === 34) inString = true
    else if (unit === 32 || (unit >= 9 && unit <= 13)) {
      out += text.slice(from, at)
      from = at + 1
    } else if (space !== '' && (unit === 44 || unit === 58)) {
      out += text.slice(from, at + 1) + space
      from = at + 1
    }
  }
  return from === 0 ? text : out + text.slice(from)
}
