import { Resolver } from 'node:dns/promises'
import { type Json, MillraceError } from '@millrace/core'
import { kindOfHost } from './address-guard.ts'
import type { Config } from './config.ts'

/** The addresses of a name; none where it has none or nobody answers in time. It never rejects. */
export type NameLookup = (name: string) => Promise<readonly string[]>

const watched: ReadonlySet<string> = new Set(['url', 'image_url', 'file_url', 'server_url'])
const maxNames = 16

/**
 * Refuses a request body whose image, file or server URLs lead a provider to where its caller must not reach: this machine, a
 * private network, a cloud's metadata. It looks at `url`, `image_url`, `file_url` and `server_url` wherever they stand. In
 * the mode `data` any URL but `data:` is refused, in the mode `any` none.
 *
 * A provider that resolves the name again may be told something else; whoever runs one within reach of secrets closes its
 * way out, too.
 *
 * @throws {MillraceError} `invalid-request` with the path, never with the URL
 *
 * @example
 * await checkURLs(body, 'public', createNameLookup())
 */
export async function checkURLs(body: Json, mode: Config['imageURLs'], lookup: NameLookup = resolve): Promise<void> {
  if (mode === 'any') return
  /** Names that only DNS can tell of, and where each was found first. */
  const names = new Map<string, Place>()
  for (const place of urlsOf(body)) {
    const url = URL.parse(place.value as string)
    // Nothing can fetch it; whether it is an image nevertheless, the provider knows.
    if (url === null || url.protocol === 'data:') continue
    if (mode === 'data') throw refused(place, 'this gateway takes data: URLs only')
    if (url.protocol !== 'https:' && url.protocol !== 'http:') throw refused(place, 'must be an https, http or data: URL')
    const kind = kindOfHost(url.hostname)
    if (kind === 'name') names.set(url.hostname, names.get(url.hostname) ?? place)
    else if (kind !== 'public') throw refused(place, notPublic)
    if (names.size > maxNames) throw refused(place, `is on one host too many: the URLs of a request may be on ${maxNames}`)
  }
  await Promise.all(
    Array.from(names, async ([name, place]) => {
      // A name without addresses passes: the provider cannot reach it either, or sees a DNS that this machine does not.
      const addresses = await lookup(name)
      if (addresses.some((address) => kindOfHost(address) !== 'public')) throw refused(place, notPublic)
    })
  )
}

const notPublic = 'leads to an address that is not public: send the content itself as a data: URL'

/** A value and how it was reached; the text of the path is made only where it is told. */
interface Place {
  readonly value: Json | undefined
  readonly key: string | number
  readonly parent: Place | undefined
}

/** With a stack of its own: a body may be nested deeper than calls can be. The body's size bounds it. */
function* urlsOf(body: Json): Generator<Place> {
  const stack: Place[] = [{ value: body, key: '', parent: undefined }]
  for (let place = stack.pop(); place !== undefined; place = stack.pop()) {
    const { value } = place
    if (typeof value !== 'object' || value === null) continue
    for (const key of Object.keys(value)) {
      const inner: Place = {
        value: (value as Readonly<Record<string, Json | undefined>>)[key],
        key: Array.isArray(value) ? Number(key) : key,
        parent: place
      }
      if (typeof inner.value === 'object') stack.push(inner)
      else if (typeof inner.value === 'string' && watched.has(key)) yield inner
    }
  }
}

function refused(place: Place, what: string): MillraceError<'invalid-request'> {
  const path = pathOf(place)
  return new MillraceError('invalid-request', `${path} ${what}`, { details: { path } })
}

function pathOf(place: Place): string {
  const keys: string[] = []
  for (let at: Place = place; at.parent !== undefined; at = at.parent) {
    keys.push(typeof at.key === 'number' ? `[${at.key}]` : `.${at.key}`)
  }
  const path = keys.toReversed().join('').replace(/^\./, '')
  return path.length > 200 ? `…${path.slice(-200)}` : path
}

/** Asked of the name servers, not of the system: its look-ups occupy the few threads that files and connections need too. */
async function resolve(name: string): Promise<readonly string[]> {
  const resolver = new Resolver({ timeout: 1000, tries: 1 })
  const timer = setTimeout(() => resolver.cancel(), 1000)
  const found = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)])
  clearTimeout(timer)
  return found.flatMap((result) => (result.status === 'fulfilled' ? result.value : []))
}

/**
 * A look-up that keeps what it was told of the last 1000 names for 60 s, so that a conversation asks once about its images.
 * It asks the name servers where `ask` is left out.
 *
 * @example
 * const lookup = createNameLookup()
 */
export function createNameLookup(ask: NameLookup = resolve): NameLookup {
  const kept = new Map<string, { readonly until: number; readonly addresses: Promise<readonly string[]> }>()
  return (name) => {
    const known = kept.get(name)
    if (known !== undefined && known.until > performance.now()) return known.addresses
    kept.delete(name)
    const addresses = ask(name)
    kept.set(name, { until: performance.now() + 60_000, addresses })
    // The oldest: a Map keeps the order of its keys.
    if (kept.size > 1000) kept.delete(kept.keys().next().value as string)
    return addresses
  }
}
