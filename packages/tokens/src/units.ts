import type { Message } from '@millrace/core'
import { isPrompt } from './message.ts'

/** A conversation in units, which stay or go as one: a message, or one that calls tools together with their results. */
export interface Units {
  /** For each message where its unit begins, which is the unit's name. */
  readonly of: Int32Array
  /** For each message the next one of its unit; 0 behind the last. */
  readonly next: Int32Array
  /** 1 for each unit that has to stay. */
  readonly stays: Uint8Array
  /** The units that may go, the oldest first. */
  readonly loose: readonly number[]
  /** Where the last turn begins, all of which stays: at the last user message, or at the last one where there is none. */
  readonly turn: number
}

/**
 * A result belongs to the last message before it that made a call of its id, however far back: ids are used again, and
 * results come late. One without a call is a unit by itself, and so is a call without results.
 */
export function unitsOf(messages: readonly Message[]): Units {
  const count = messages.length
  const of = new Int32Array(count)
  const next = new Int32Array(count)
  const stays = new Uint8Array(count)
  const last = new Int32Array(count)
  const callers = new Map<string, number>()
  let turn = count - 1
  while (turn >= 0 && messages[turn]?.role !== 'user') turn--
  if (turn === -1) turn = count - 1

  for (let at = 0; at < count; at++) {
    const message = messages[at] as Message
    const unit = message.role === 'tool' ? (callers.get(message.toolCallId) ?? at) : at
    if (message.role === 'assistant' && message.toolCalls !== undefined) {
      for (const { id } of message.toolCalls) callers.set(id, at)
    }
    of[at] = unit
    if (unit !== at) next[last[unit] as number] = at
    last[unit] = at
    if (at >= turn || isPrompt(message)) stays[unit] = 1
  }

  const loose: number[] = []
  for (let at = 0; at < turn; at++) if (of[at] === at && stays[at] === 0) loose.push(at)
  return { of, next, stays, loose, turn }
}
