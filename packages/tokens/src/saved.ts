import type { BesideMessages, Message } from '@millrace/core'
import type { Tokenizer } from './tokenizer.ts'

/** A message that was left out, or changed into another. */
export interface Change {
  readonly before: Message
  readonly after?: Message | undefined
}

export interface Saving {
  readonly before: readonly Message[]
  readonly after: readonly Message[]
  /** In what the two differ. */
  readonly changes: readonly Change[]
}

/** Characters that are counted to tell what was saved: about two milliseconds' worth. */
const maxChars = 65_536

/**
 * How many tokens `after` takes less than `before`, as they are counted: the safety factor is for what must fit, and would
 * make savings look larger than the talk was. Extrapolated where more than 64 KiB of text changed: nobody should wait while
 * megabytes are counted that are not even sent.
 */
export function savedTokens({ before, after, changes }: Saving, tokenizer: Tokenizer, beside: BesideMessages): number {
  const chars = changes.reduce((sum, change) => sum + charsOf(change.before), 0)
  if (chars <= maxChars) return tokenizer.countMessages(before, beside) - tokenizer.countMessages(after, beside)

  const bare = tokenizer.countMessages([])
  let tokens = 0
  let counted = 0
  for (const change of changes) {
    const size = charsOf(change.before)
    if (counted + size > maxChars) continue
    counted += size
    tokens += tokenizer.countMessages([change.before])
    tokens -= change.after === undefined ? bare : tokenizer.countMessages([change.after])
  }
  // Every one of them longer than that: then by the rule of thumb.
  return Math.ceil(counted === 0 ? chars / 4 : (tokens * chars) / counted)
}

/** At least one, so that a message without text counts too. */
function charsOf(message: Message): number {
  let chars = 1
  if (typeof message.content === 'string') chars += message.content.length
  else for (const part of message.content) if (part.type === 'text' || part.type === 'reasoning') chars += part.text.length
  if (message.role === 'assistant') for (const call of message.toolCalls ?? []) chars += call.arguments.length
  return chars
}
