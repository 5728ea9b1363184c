import type { Attributes } from '@opentelemetry/api'
import { attribute, other } from './semconv.ts'

/** Keeps the values of one metric label few, whatever callers and providers make up. */
export interface Labels {
  /** The value, if it is known or there is room for it; else `_OTHER`. */
  admit(value: string): string
}

export function createLabels(max: number): Labels {
  const places = createPlaces(max)
  return { admit: (value) => (places.take(value) ? value : other) }
}

interface Places {
  has(key: string): boolean
  /** False when all are taken. */
  take(key: string): boolean
}

function createPlaces(max: number): Places {
  const taken = new Set<string>()
  return {
    has: (key) => taken.has(key),
    take(key) {
      if (taken.has(key)) return true
      if (taken.size >= max) return false
      taken.add(key)
      return true
    }
  }
}

/** What a call is known by. */
export interface CallNames {
  readonly provider: string
  /** Asked for. */
  readonly model: string
  /** Whether anybody answered under these names. */
  readonly isAnswered: boolean
}

/** The labels `provider` and `model` of calls: pairs of them are counted, for so many series they make. */
export interface CallLabels {
  of(names: CallNames): Attributes
  /** Those that `of` gave, with the name under which the provider answered. */
  withResponse(labels: Attributes, responseModel: string | undefined): Attributes
}

/**
 * A gateway's callers name models freely, so names that nobody answered to have places of their own: they cannot take those of
 * models that exist.
 */
export function createCallLabels(max: number): CallLabels {
  const providers = createLabels(max)
  const answered = createPlaces(max)
  const unanswered = createPlaces(Math.ceil(max / 2))
  const responses = createPlaces(2 * max)

  function of({ provider, model, isAnswered }: CallNames): Attributes {
    const known = providers.admit(provider)
    const pair = `${known}\n${model}`
    const hasPlace = isAnswered ? answered.take(pair) : answered.has(pair) || unanswered.take(pair)
    return {
      [attribute.operation]: 'chat',
      [attribute.provider]: known,
      [attribute.requestModel]: hasPlace ? model : other
    }
  }

  return {
    of,
    withResponse(labels, responseModel) {
      if (responseModel === undefined) return labels
      const model = labels[attribute.requestModel]
      const key = `${String(labels[attribute.provider])}\n${String(model)}\n${responseModel}`
      return { ...labels, [attribute.responseModel]: model !== other && responses.take(key) ? responseModel : other }
    }
  }
}
