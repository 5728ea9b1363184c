// JSON is written by hand, each value into the room that is left for it: what `JSON.stringify` gives would have to be measured
// and made anew until it fits, and would walk all of a caller's object, its getters and its `toJSON`.

/** Writes a value in at most `room` characters, or not at all. */
export type Write = (room: number) => string | undefined

/** An object of this type with the fields that can be written; undefined where it does not fit. */
export function object(type: string, room: number, fields: Readonly<Record<string, Write>> = {}): string | undefined {
  let json = `{"type":"${type}"`
  for (const [key, write] of Object.entries(fields)) {
    const name = `,"${key}":`
    const value = write(room - json.length - name.length - 1)
    if (value !== undefined) json += name + value
  }
  return json.length < room ? `${json}}` : undefined
}

export interface Row {
  /** Index of the first item. @default 0 */
  readonly from?: number
  /** Index after the last one. */
  readonly to: number
  /** Characters for the whole row; with less than `omitted` takes, it is longer all the same. */
  readonly room: number
  /** With less room than this, no item is begun. */
  readonly least: number
  /** Writes the item of this index. One that throws is left out and counted. */
  readonly write: (index: number, room: number) => string | undefined
  /** Stands first, for the items that are not there. */
  readonly omitted: (count: number) => string
}

/** Every item costs this much room, so that a million that cannot be written come to an end. */
const leastCost = 16

/**
 * The items of an array without its brackets, in their order, taken from the last one back while there is room: what came last
 * survives longest.
 */
export function row({ from = 0, to, room, least, write, omitted }: Row, onFailure: () => void): string {
  // A proxy may say anything, and what it says would stand in the JSON.
  if (!Number.isSafeInteger(to)) throw new TypeError('not a list')
  let left = room - omitted(to).length - 1
  const written: string[] = []
  for (let index = to - 1; index >= from && left >= least; index--) {
    let json: string | undefined
    try {
      json = write(index, left - 1)
    } catch {
      onFailure() // the error may quote the content
    }
    if (json !== undefined) written.push(json)
    left -= Math.max(leastCost, (json?.length ?? 0) + 1)
  }
  const missing = to - from - written.length
  if (missing > 0) written.push(omitted(missing))
  return written.toReversed().join(',')
}
