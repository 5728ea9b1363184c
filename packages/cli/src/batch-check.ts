import { type BrokenLine, type FormatName, formatOf, type Item, readItem } from './batch-line.ts'
import { createDigestSet } from './digest-set.ts'
import { readLines } from './lines.ts'

/** The requests of a file in its order; what is no request, or bears a `custom_id` again, is told as broken. */
export async function* readItems(
  bytes: AsyncIterable<Uint8Array>,
  named: FormatName | undefined,
  onFormat: (format: FormatName) => void = () => {}
): AsyncGenerator<Item | BrokenLine, undefined> {
  const seen = createDigestSet()
  let format = named
  for await (const line of readLines(bytes)) {
    if (format === undefined) {
      format = formatOf(line)
      onFormat(format)
    }
    const item = readItem(line, format)
    if ('problem' in item || seen.add(item.customId)) yield item
    else
      yield {
        line: item.line,
        problem: `has the custom_id ${JSON.stringify(item.customId)} of an earlier line`,
        customId: item.customId
      }
  }
}

/** What a whole file holds. */
export interface FileCheck {
  readonly items: number
  readonly format: FormatName
  readonly broken: number
  /** The first ten. */
  readonly problems: readonly BrokenLine[]
}

/** Looks at each line before anything is sent. */
export async function checkFile(bytes: AsyncIterable<Uint8Array>, named: FormatName | undefined): Promise<FileCheck> {
  let format = named ?? 'openai'
  let items = 0
  let broken = 0
  const problems: BrokenLine[] = []
  const found = readItems(bytes, named, (told) => {
    format = told
  })
  for await (const item of found) {
    if (!('problem' in item)) items++
    else if (++broken <= 10) problems.push(item)
  }
  return { items, format, broken, problems }
}
