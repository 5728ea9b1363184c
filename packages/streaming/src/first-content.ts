import { type Chunk, type Completion, isContent } from '@millrace/core'
import { isChunk } from './chunk-check.ts'

/** Whether the client learns something of this item; of a ready text, and of what will be refused, it is taken for granted. */
export function isTelling(item: Chunk | string): boolean {
  if (typeof item === 'string') return item !== ''
  return !isChunk(item) || isContent(item)
}

/** What the layers have told so far. */
export function notesOf(items: readonly (Chunk | string)[]): Completion['notes'] {
  const notes: { -readonly [From in keyof Completion['notes']]: Completion['notes'][From] } = {}
  for (const item of items) if (isChunk(item) && item.type === 'note') notes[item.from] = item.facts
  return notes
}
