import { type Answer, isObject, type ScriptedRequest, type ScriptedToolCall } from './dialect.ts'
import { proseAbout, topicWords } from './prose.ts'

/** What a script wants said; a string is its `text`. */
export interface ScriptedReply {
  /** @default prose about the prompt, or an error's message when `status` is 400 or more */
  readonly text?: string | undefined
  /** @default a call of the tool that the last user message mentions */
  readonly toolCalls?: readonly ScriptedToolCall[] | undefined
  /** @default 200 */
  readonly status?: number | undefined
  /** Added to the server's own, or replacing them. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Sent as it is, instead of everything the server would write. */
  readonly body?: string | undefined
  /** @default the server's */
  readonly tokensPerSecond?: number | undefined
  /** Exact, without jitter. @default the server's */
  readonly firstTokenMs?: number | undefined
}

/** Cuts the answer to a request into tokens, and ends it at the request's limit. */
export function composeAnswer(request: ScriptedRequest, reply: ScriptedReply, number: number): Answer {
  const calls = reply.toolCalls ?? (reply.text === undefined ? mentionedTool(request) : [])
  let left = request.maxTokens
  const take = (text: string): string[] => {
    const tokens = tokensOf(text)
    const taken = tokens.slice(0, left)
    cut ||= taken.length < tokens.length
    left -= taken.length
    return taken
  }
  let cut = false
  const text = reply.text ?? (calls.length > 0 ? '' : proseAbout(request.prompt, request.conversation))
  const answer = {
    number,
    request,
    text: take(text),
    toolCalls: calls.map((call, index) => ({
      id: request.api === 'anthropic' ? `toolu_${number}_${index}` : `call_${number}_${index}`,
      name: call.name,
      arguments: take(JSON.stringify(call.arguments))
    }))
  }
  const tokensOut = [answer.text, ...answer.toolCalls.map((call) => call.arguments)].reduce((sum, list) => sum + list.length, 0)
  return { ...answer, tokensOut, finish: cut ? 'length' : calls.length > 0 ? 'tool-calls' : 'stop' }
}

/** The server's idea of a token: up to six characters of a word with the space before them. Joined they are the text again. */
export function tokensOf(text: string): readonly string[] {
  return text.match(/\s*\S{1,6}|\s+$/gu) ?? []
}

function mentionedTool(request: ScriptedRequest): readonly ScriptedToolCall[] {
  const { tools, toolChoice, prompt } = request
  // After a tool's result the model speaks; with `required` it would otherwise call for ever.
  if (toolChoice === 'none' || !request.userSpokeLast) return []
  const plainPrompt = plainWords(prompt)
  const tool =
    tools.find(({ name }) => name === toolChoice) ??
    tools.find(({ name }) => plainPrompt.includes(plainWords(name))) ??
    (toolChoice === 'required' ? tools[0] : undefined)
  if (tool === undefined) return []
  const words = topicWords(plainPrompt.replaceAll(plainWords(tool.name), ''))
  return [{ name: tool.name, arguments: argumentsFor(tool.parameters, words) }]
}

/** `get_weather` is mentioned by "get weather" too. */
function plainWords(text: string): string {
  return text.replace(/[_-]/g, ' ')
}

/** Values that fit a flat JSON Schema: the prompt's words for strings, fixed ones for the rest. */
function argumentsFor(schema: unknown, words: readonly string[]): Record<string, unknown> {
  const properties = isObject(schema) && isObject(schema.properties) ? schema.properties : {}
  let turn = 0
  return Object.fromEntries(
    Object.entries(properties).map(([name, property]) => {
      const { type, enum: choices } = isObject(property) ? property : {}
      if (Array.isArray(choices)) return [name, choices[0]]
      if (type === 'number' || type === 'integer') return [name, 7]
      if (type === 'boolean') return [name, true]
      if (type === 'array') return [name, []]
      if (type === 'object') return [name, {}]
      return [name, words.length > 0 ? words[turn++ % words.length] : name]
    })
  )
}
