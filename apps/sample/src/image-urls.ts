import { Resolver } from 'node:dns/promises'
import { type Json, MillraceError } from '@millrace/core'
import { kindOfHost } from './address-guard.ts'
import type { Config } from './config.ts'

/** The addresses of a name; none where it has none or nobody answers in time. It never rejects. */
export type NameLookup = (name: string) => Promise<readonly string[]>

/** Of keys: `url`, `image_url`, `audioUrl`, `uri` and lists such as `urls`. */
const watched = /ur[il]s?$/i
/** What every parser takes for the same host: no user name, and nothing that some read as `/` or leave out. */
const plain = /^https?:\/\/(?:\[[\da-f:.]+\]|[\w.~\u00a1-\uffff-]+)(?::\d{1,5})?(?:\/[^\\\0- \u007f]*|[?#][^@\\\0- \u007f]*)?$/i
const maxNames = 16

/**
 * Refuses a request body whose image, file or server URLs lead a provider to where its caller must not reach: this machine, a
 * private network, a cloud's metadata. It looks at what stands, alone or in a list, under a key that ends in `url` or `uri`. In the mode
 * `data` any URL but `data:` is refused, in the mode `any` none. It knows what `JSON.parse` made of the body: where its bytes
 * go up as they are, `checkShape` comes first.
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
    // Nothing can fetch what has no scheme; whether it is an image nevertheless, the provider knows.
    if (url === null && !/^\s*[a-z][a-z\d+.-]*:/i.test(place.value as string)) continue
    if (url?.protocol === 'data:') continue
    if (mode === 'data') throw refused(place, 'this gateway takes data: URLs only')
    if (url !== null && url.protocol !== 'https:' && url.protocol !== 'http:') {
      throw refused(place, 'must be an https, http or data: URL')
    }
    if (url === null || !plain.test(place.value as string)) throw refused(place, notPlain)
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

const notPlain = 'must be a plain URL, such as https://host/path: no user name, space, backslash or control character'
const notPublic = 'leads to an address that is not public: send the content itself as a data: URL'

/** A value and how it was reached; the text of the path is made only where it is told. */
interface Place {
  readonly value: Json | undefined
  readonly key: string | number
  readonly parent: Place | undefined
  /** Whether text here is a URL. */
  readonly isURL: boolean
}

/** With a stack of its own: a body may be nested deeper than calls can be. The body's size bounds it. */
function* urlsOf(body: Json): Generator<Place> {
  const stack: Place[] = [{ value: body, key: '', parent: undefined, isURL: false }]
  for (let place = stack.pop(); place !== undefined; place = stack.pop()) {
    const { value } = place
    if (typeof value !== 'object' || value === null) continue
    for (const key of Object.keys(value)) {
      const inner: Place = {
        value: (value as Readonly<Record<string, Json | undefined>>)[key],
        key: Array.isArray(value) ? Number(key) : key,
        parent: place,
        isURL: Array.isArray(value) ? place.isURL : watched.test(key)
      }
      if (typeof inner.value === 'object') stack.push(inner)
      else if (typeof inner.value === 'string' && inner.isURL) yield inner
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
