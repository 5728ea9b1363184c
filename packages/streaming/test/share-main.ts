// Reads a long stream of events for share.test.ts, in a process with little memory: `node share-main.ts URL share|operators`.
// Writes what each reader got, as digests.
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { parseSSE, pipe, type ServerSentEvent } from '@millrace/core'
import { abortable } from '../src/abortable.ts'
import { buffered } from '../src/buffered.ts'
import { idleTimeout } from '../src/idle-timeout.ts'
import { share } from '../src/share.ts'

const [url, way] = process.argv.slice(2) as [string, string]
const [response] = (await once(get(url), 'response')) as [IncomingMessage]
const events = parseSSE(response)

/** One of them is slower than the others, and reads in another rhythm. */
async function digest(stream: AsyncIterable<ServerSentEvent>, index: number): Promise<string> {
  const hash = createHash('sha256')
  let count = 0
  for await (const { data } of stream) {
    hash.update(data)
    if (index > 0 && ++count % (index * 50) === 0) await new Promise(setImmediate)
  }
  return hash.digest('hex')
}

const readers =
  way === 'share'
    ? share(events, 3)
    : [
        pipe(
          events,
          buffered(),
          idleTimeout<ServerSentEvent>({ isContent: ({ data }) => data !== '' }),
          abortable(new AbortController().signal)
        )
      ]
console.log(JSON.stringify(await Promise.all(readers.map(digest))))
