// Items of about 1 KB with answers of about 1 KB, kept in a journal or not: `batch-journal-main.ts <subject> <a folder>`.
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type BatchOptions, batch, openJournal } from '@millrace/batch'
import { takeTurns, type Work } from './turns.ts'

interface Item {
  readonly custom_id: string
  readonly body: { readonly model: string; readonly messages: readonly { readonly role: string; readonly content: string }[] }
}

const [name = '', folder = ''] = process.argv.slice(2)
const count = 10_000
const answer = { text: 'It is one of many. '.repeat(50) }
const items = Array.from({ length: count }, (_, index): Item => {
  const content = `Question ${index}: ${'how many are there in all? '.repeat(35)}`
  return { custom_id: `request-${index}`, body: { model: 'gpt-5', messages: [{ role: 'user', content }] } }
})
let files = 0
const path = (): string => join(folder, `${process.pid}-${files++}.jsonl`)

async function run(options: BatchOptions<Item>): Promise<void> {
  let done = 0
  for await (const outcome of batch(items, async () => answer, { concurrency: 100, ...options })) {
    if (outcome.status === 'rejected') throw outcome.reason
    done++
  }
  if (done !== count) throw new Error(`${done} of ${count} items came back`)
}

async function journalled(fsync: boolean): Promise<void> {
  const file = path()
  {
    await using journal = await openJournal<Item>(file, { fsync })
    await run({ journal })
  }
  await rm(file)
}

const subjects: Readonly<Record<string, Work>> = {
  async 'no journal'() {
    await run({})
    return { units: count }
  },
  async 'no journal again'() {
    await run({})
    return { units: count }
  },
  async 'journal without fsync'() {
    await journalled(false)
    return { units: count }
  },
  async 'journal with fsync'() {
    await journalled(true)
    return { units: count }
  },
  /** What the disk can do: one line, and wait until it is there. */
  async 'a line and fdatasync in turn'() {
    const [file, lines] = [path(), 100]
    const line = `${JSON.stringify(answer)}\n`
    const handle = await open(file, 'a')
    for (let written = 0; written < lines; written++) {
      await handle.write(line)
      await handle.datasync()
    }
    await handle.close()
    await rm(file)
    return { units: lines }
  }
}
const work = subjects[name]
if (work === undefined) throw new TypeError(`${name} is no subject; they are ${Object.keys(subjects).join(', ')}`)
takeTurns(work)
