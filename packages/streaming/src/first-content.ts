import { type Chunk, type Completion, isContent } from '@millrace/core'

/** Whether the client learns something of this item; of a ready text it is taken for granted. */
export function isTelling(item: Chunk | string): boolean {
  return typeof item === 'string' ? item !== '' : isContent(item)
}

/** What the layers have told so far. */
export function notesOf(items: readonly (Chunk | string)[]): Completion['notes'] {
  const notes: { -readonly [From in keyof Completion['notes']]: Completion['notes'][From] } = {}
  for (const item of items) if (typeof item !== 'string' && item.type === 'note') notes[item.from] = item.facts
  return notes
}
