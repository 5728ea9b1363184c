import { checkOptions, type Provider, type Send } from '@millrace/core'
import type { WireProvider } from './dialect.ts'

/** One of several providers that may answer. */
export interface Candidate {
  readonly provider: WireProvider | Provider
  /**
   * What its limits, notes and cool-downs call it; no two may have the same.
   * @default the provider's own name, `openai-2` for the second; `provider-1` and so on for a function
   */
  readonly name?: string | undefined
  /** What it calls the model: one for all requests, or by the request's model; one that is not in the table stays as it is. */
  readonly model?: string | Readonly<Record<string, string>> | undefined
  /** Its share where `balance` is `weighted`. @default 1 */
  readonly weight?: number | undefined
}

/** A candidate that is ready to be asked. */
export interface ConnectedCandidate {
  readonly name: string
  readonly provider: Provider
  readonly model?: Candidate['model']
  readonly weight?: number | undefined
}

type Given = WireProvider | Provider

/**
 * The candidates behind the option `provider`, which may be one provider or a list.
 *
 * @throws {TypeError} for what is none
 */
export function candidatesOf(given: Given | readonly (Given | Candidate)[]): readonly Candidate[] {
  if (!isList(given)) return [{ provider: checkProvider(given) }]
  if (given.length === 0) throw new TypeError('provider is an empty list: give at least one provider')
  // Not `map`, which leaves holes as they are.
  return Array.from(given, (each: Given | Candidate) => {
    if (typeof each !== 'object' || each === null || !('provider' in each)) return { provider: checkProvider(each as Given) }
    checkOptions<Candidate>('a provider of the list', each, { provider: 1, name: 1, model: 1, weight: 1 })
    const { name, model, weight } = each
    checkProvider(each.provider)
    if (name !== undefined && (typeof name !== 'string' || name === '')) throw new TypeError('name must be a non-empty string')
    if (model !== undefined && !isModel(model)) {
      throw new TypeError("model must be the provider's name of it, or a table of names by the request's model")
    }
    if (weight !== undefined && !(typeof weight === 'number' && weight > 0 && Number.isFinite(weight))) {
      throw new TypeError('weight must be a number above 0; leave a provider out of the list that shall have nothing')
    }
    return each
  })
}

const isList = (given: Given | readonly (Given | Candidate)[]): given is readonly (Given | Candidate)[] => Array.isArray(given)

export const isWire = (provider: Given): provider is WireProvider => typeof provider === 'object'

/**
 * The candidates over the transport's wire, each with a name of its own: limits, cool-downs and notes go by it. Of two without
 * one that are called alike the second is `openai-2`.
 *
 * @throws {TypeError} for a name that was given twice
 */
export function connectAll(candidates: readonly Candidate[], send: Send): readonly ConnectedCandidate[] {
  const names = new Set<string>()
  for (const { name } of candidates) {
    if (name === undefined) continue
    if (names.has(name)) throw new TypeError(`two providers are named ${JSON.stringify(name)}: give each a name of its own`)
    names.add(name)
  }
  function nameOf(own: string): string {
    let name = own
    for (let number = 2; names.has(name); number++) name = `${own}-${number}`
    names.add(name)
    return name
  }
  return candidates.map(({ provider, name, model, weight }, index) =>
    isWire(provider)
      ? { name: name ?? nameOf(provider.name), provider: provider.connect(send), model, weight }
      : { name: name ?? nameOf(`provider-${index + 1}`), provider, model, weight }
  )
}

/** What a candidate calls a model. */
export function modelOf({ model }: Pick<Candidate, 'model'>, asked: string): string {
  if (typeof model === 'string') return model
  return model !== undefined && Object.hasOwn(model, asked) ? (model[asked] as string) : asked
}

/** Who answers, for the cache's key: with several, any of them may. */
export function identityOfAll(
  candidates: readonly Candidate[],
  { origin, hasCache }: { readonly origin: string | undefined; readonly hasCache: boolean }
): { readonly origin: string; readonly credential: () => string } {
  const identities = candidates.map(({ provider, model }) => {
    if (isWire(provider)) {
      const { credential, variant } = provider.identity()
      return { origin: `${origin ?? provider.origin} ${variant}`, credential, model }
    }
    if (hasCache && origin === undefined) {
      throw new TypeError(
        "origin is missing: with a cache and a provider of your own, name who answers, such as origin: 'my-model-server'"
      )
    }
    return { origin: origin ?? '', credential: '', model }
  })
  const [only] = identities
  if (identities.length === 1 && only !== undefined && only.model === undefined) {
    const { credential } = only
    return { origin: only.origin, credential: () => credential }
  }
  const origins = JSON.stringify(identities.map((identity) => [identity.origin, identity.model]))
  const credentials = JSON.stringify(identities.map(({ credential }) => credential))
  return { origin: origins, credential: () => credentials }
}

function checkProvider(provider: Given): Given {
  if (typeof provider === 'function') return provider
  if (typeof provider === 'object' && provider !== null && typeof provider.connect === 'function') return provider
  throw new TypeError(
    "provider must be a provider: openai({ apiKey }) of '@millrace/adapter/openai', anthropic({ apiKey }), or a function of yours; or a list of them"
  )
}

function isModel(model: unknown): boolean {
  if (typeof model === 'string') return model !== ''
  if (typeof model !== 'object' || model === null) return false
  const prototype: unknown = Object.getPrototypeOf(model)
  const isPlain = prototype === Object.prototype || prototype === null
  return isPlain && Object.values(model).every((name) => typeof name === 'string' && name !== '')
}
