import { checkOptions, isJsonObject, type Json, type Message, type Part } from '@millrace/core'
import { checkTokenizer, compressText, savedTokens } from './compress.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface CompressMessagesOptions {
  /**
   * Whose texts. What a tool answered is left alone unless it is named here, because agents edit files by quoting them
   * exactly. @default ['user', 'assistant']
   */
  readonly roles?: readonly ('user' | 'assistant' | 'tool')[] | undefined
  /** Counts what was saved. @default none, and savedTokens is undefined */
  readonly tokenizer?: Pick<Tokenizer, 'count'> | undefined
}

export interface CompressedMessages {
  /** The very array that was given, when nothing changed; a message that did not change is the same object. */
  readonly messages: readonly Message[]
  /** In the texts themselves, by the tokenizer of the options; undefined when there is none. */
  readonly savedTokens: number | undefined
  /** UTF-16 code units. */
  readonly savedChars: number
}

/**
 * `compress` for a conversation. Never touched: system and developer messages, arguments of tool calls, reasoning, parts
 * that are not text, and texts or messages with `extra`, since signatures and annotations point into the exact text.
 * Neither is anything up to the last mark for the provider's prompt cache (`cache_control` and its kin on a message or part).
 *
 * A message is compressed by itself and always alike, so the prefix that a provider caches stays the same from turn to
 * turn. `messages` are not changed in place.
 *
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * const { messages } = compressMessages([{ role: 'user', content: 'Too   many  spaces.' }])
 */
export function compressMessages(messages: readonly Message[], options: CompressMessagesOptions = {}): CompressedMessages {
  checkOptions<CompressMessagesOptions>('compressMessages', options, { roles: 1, tokenizer: 1 })
  if (!Array.isArray(messages)) throw new TypeError('compressMessages takes an array of messages; a text goes to compress')
  const { roles = ['user', 'assistant'], tokenizer } = options
  for (const role of roles) {
    if (role !== 'user' && role !== 'assistant' && role !== 'tool')
      throw new TypeError(`roles may be 'user', 'assistant' and 'tool', not ${JSON.stringify(role)}`)
  }
  checkTokenizer(tokenizer)
  let tokens = 0
  let chars = 0

  function compressed(text: string, after: string): string {
    if (tokenizer !== undefined) tokens += savedTokens(text, after, tokenizer)
    chars += text.length - after.length
    return after
  }

  function ofParts(parts: readonly Part[], from: number): readonly Part[] {
    let changed: Part[] | undefined
    let isOpen = false
    for (const [index, part] of parts.entries()) {
      if (part.type !== 'text') continue
      // The model reads the parts as one text: code that is open at the end of one goes on in the next.
      const whole: ReturnType<typeof compressText> = isOpen ? { text: part.text, isOpen } : compressText(part.text)
      isOpen = whole.isOpen
      if (index < from || part.extra !== undefined || whole.text === part.text) continue
      // And the last word of a part must not grow together with the first of the next.
      const text = compressed(part.text, endsInSpace(part.text) && !endsInSpace(whole.text) ? `${whole.text} ` : whole.text)
      if (text === part.text) continue
      changed ??= [...parts]
      changed[index] = { ...part, text }
    }
    return changed ?? parts
  }

  const { message: marked, part: markedPart } = lastMark(messages)
  let changed: Message[] | undefined
  for (let index = Math.max(marked, 0); index < messages.length; index++) {
    const message = messages[index] as Message
    const { content } = message
    if (message.extra !== undefined || !(roles as readonly string[]).includes(message.role)) continue
    let after: Message['content']
    if (typeof content === 'string') after = index === marked ? content : compressed(content, compressText(content).text)
    else after = ofParts(content, index === marked ? markedPart + 1 : 0)
    if (after === content) continue
    changed ??= [...messages]
    changed[index] = { ...message, content: after }
  }
  return { messages: changed ?? messages, savedTokens: tokenizer === undefined ? undefined : tokens, savedChars: chars }
}

function endsInSpace(text: string): boolean {
  const end = text.at(-1)
  return end === ' ' || end === '\t'
}

/** How Anthropic, SDKs around it, and Bedrock write it. */
const marks: ReadonlySet<string> = new Set(['cache_control', 'cacheControl', 'cache_point', 'cachePoint'])

/** The last message, and its last part, up to which the provider caches; -1 where there is none. */
function lastMark(messages: readonly Message[]): { readonly message: number; readonly part: number } {
  for (let index = messages.length - 1; index >= 0; index--) {
    const { content, extra } = messages[index] as Message
    const last = typeof content === 'string' ? 0 : content.length - 1
    if (isMarked(extra)) return { message: index, part: last }
    if (typeof content === 'string') continue
    const part = content.findLastIndex((each) => isMarked(each.type === 'other' ? each.value : each.extra))
    if (part !== -1) return { message: index, part }
  }
  return { message: -1, part: -1 }
}

/** A mark may stand deep inside, as in a tool's result that holds texts. What is too deep to look at counts as marked. */
export function isMarked(value: Json | undefined, depth = 0): boolean {
  if (typeof value !== 'object' || value === null) return false
  if (depth > maxDepth) return true
  if (Array.isArray(value)) return value.some((item: Json) => isMarked(item, depth + 1))
  if (!isJsonObject(value)) return false
  return Object.entries(value).some(([name, item]) => (marks.has(name) && item !== null) || isMarked(item, depth + 1))
}

const maxDepth = 20
