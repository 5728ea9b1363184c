import type { Role } from '@millrace/core'
import type { Attributes } from '@opentelemetry/api'
import { object, row } from './content-json.ts'
import { createPartWriter, leastPart, listOf, omittedParts, type Unchecked } from './content-part.ts'
import type { ContentPlace, TextReader } from './content-text.ts'
import { attribute } from './semconv.ts'

/** Room in which a message can say at least that it was there. */
const leastMessage = 160
/** Only so many messages are looked at for instructions that stand before the conversation. */
const maxInstructions = 1024

const roles: readonly unknown[] = ['system', 'developer', 'user', 'assistant', 'tool'] satisfies Role[]

/** What goes to the model, as JSON texts of at most `maxChars` each. It keeps nothing of the request. */
export function inputAttributes(request: unknown, maxChars: number, reader: TextReader, onFailure: () => void): Attributes {
  const parts = createPartWriter(reader)
  const recorded: Record<string, string> = {}
  const room = maxChars - 2

  function record(name: string, write: () => string): void {
    try {
      const json = write()
      if (json !== '') recorded[name] = `[${json}]`
    } catch {
      onFailure() // the error may quote the content
    }
  }

  /** Of a conversation: the instructions before it, and the rest. */
  function recordMessages(): string {
    const messages = listOf((request as Unchecked).messages)
    const from = instructionsBefore(messages)
    record(attribute.systemInstructions, () => {
      const write = (index: number, left: number): string | undefined => instructions(messages[index] as Unchecked, left)
      const omitted = (count: number): string => `{"type":"omitted","messages":${count}}`
      return row({ to: from, room, least: leastMessage, write, omitted }, onFailure)
    })
    const write = (index: number, left: number): string | undefined => message(messages[index] as Unchecked, left)
    const omitted = (count: number): string => `{"role":"omitted","parts":[],"messages":${count}}`
    return row({ from, to: messages.length, room, least: leastMessage, write, omitted }, onFailure)
  }

  function instructions(given: Unchecked, left: number): string | undefined {
    const json = content(contentOf(given), left, 'system')
    return json === '' ? undefined : json
  }

  function message(given: Unchecked, left: number): string {
    const { role } = given
    if (typeof role !== 'string' || !roles.includes(role)) throw new TypeError('not a role')
    const head = `{"role":"${role}","parts":[`
    const inner = left - head.length - 2
    return `${head}${role === 'tool' ? toolResponse(given, inner) : spoken(given, inner)}]}`
  }

  /** What was said, then the tools that were called. */
  function spoken(given: Unchecked, left: number): string {
    const { toolCalls } = given
    return content(contentOf(given), left, 'input', toolCalls === undefined ? [] : listOf(toolCalls))
  }

  function toolResponse(given: Unchecked, left: number): string {
    const id = parts.nameField(given.toolCallId, 'input')
    const { content: answer } = given
    const response =
      typeof answer === 'string'
        ? parts.textField(answer, 'input')
        : (inner: number) => `[${content(listOf(answer), inner - 2, 'input')}]`
    return object('tool_call_response', left, { id, response }) ?? omittedParts(1)
  }

  function content(said: ArrayLike<Unchecked>, left: number, where: ContentPlace, calls: ArrayLike<Unchecked> = []): string {
    const { length } = said
    function write(index: number, inner: number): string | undefined {
      if (index >= length) return parts.toolCall(calls[index - length] as Unchecked, inner, where)
      return parts.part(said[index] as Unchecked, inner, where)
    }
    return row({ to: length + calls.length, room: left, least: leastPart, write, omitted: omittedParts }, onFailure)
  }

  function recordTools(): string {
    const { tools } = request as Unchecked
    if (tools === undefined) return ''
    const list = listOf(tools)
    const write = (index: number, left: number): string | undefined => tool(list[index] as Unchecked, left)
    const omitted = (count: number): string => `{"type":"omitted","name":"${count} tools"}`
    return row({ to: list.length, room, least: leastPart, write, omitted }, onFailure)
  }

  // Without the schema of its parameters, as the conventions recommend: it could be larger than the conversation.
  function tool(given: Unchecked, left: number): string | undefined {
    const name = parts.nameField(given.name, 'tool')
    const { description } = given
    return object('function', left, {
      name,
      ...(description === undefined ? {} : { description: parts.textField(description, 'tool') })
    })
  }

  record(attribute.inputMessages, recordMessages)
  record(attribute.toolDefinitions, recordTools)
  return recorded
}

/** How many messages of instructions stand before the conversation. */
function instructionsBefore(messages: ArrayLike<Unchecked>): number {
  let count = 0
  try {
    for (const most = Math.min(messages.length, maxInstructions); count < most; count++) {
      const role = messages[count]?.role
      if (role !== 'system' && role !== 'developer') break
    }
  } catch {
    // It ends them; the failure is counted when the message itself is written.
  }
  return count
}

function contentOf(message: Unchecked): ArrayLike<Unchecked> {
  const { content } = message
  if (typeof content !== 'string') return listOf(content)
  return content === '' ? [] : [{ type: 'text', text: content }]
}
