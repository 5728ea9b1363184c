import { format, inspect } from 'node:util'
import { describe, expect, expectTypeOf, it } from 'vitest'
import {
  annotate,
  type Completion,
  type ErrorCode,
  isMillraceError,
  MillraceError,
  type MillraceErrorInit
} from '../src/index.ts'

const canary = 'CANARY-sk-123'
const partial: Completion = {
  provider: 'p',
  model: 'm',
  text: canary,
  reasoning: [],
  toolCalls: [],
  extras: [],
  finish: 'other',
  notes: {}
}

/** Everything that can carry content carries it. */
function loaded(
  cause: unknown = Object.assign(new TypeError(`bad ${canary}\n    at ${canary}`), { body: canary })
): MillraceError<'unavailable'> {
  return new MillraceError('unavailable', 'the provider answered 500', {
    details: { status: 500 },
    context: { provider: 'p', attempt: 2 },
    cause,
    partial,
    providerMessage: canary
  })
}

describe('what an error shows', () => {
  it('is code, details, context and whether it may be tried again', () => {
    expect(JSON.parse(JSON.stringify(loaded()))).toEqual({
      name: 'MillraceError',
      code: 'unavailable',
      message: 'the provider answered 500',
      retryable: true,
      details: { status: 500 },
      context: { provider: 'p', attempt: 2 }
    })
    const shown = inspect(loaded())
    for (const fact of [
      'MillraceError: the provider answered 500',
      "code: 'unavailable'",
      'status: 500',
      "cause: 'TypeError'",
      'error.test.ts'
    ]) {
      expect(shown).toContain(fact)
    }
  })

  it.each<[string, unknown]>([
    ['an error with content in its message', undefined],
    ['an error of JSON.parse', parseFailure(`${canary} is no JSON`)],
    ['a string', canary],
    ['an object', { body: canary }],
    ['an error of errors', new AggregateError([new Error(canary)], canary)],
    ['an error with a cause of its own', new Error('outer', { cause: new Error(canary) })],
    ['an error whose stack is odd', Object.assign(new Error('x'), { stack: canary })]
  ])('is no content, header or secret, whoever prints it, with %s as cause', (_, cause) => {
    const error = loaded(cause)
    const printed = [
      error.message,
      String(error),
      error.stack,
      inspect(error),
      inspect(error, { depth: 20, showHidden: false }),
      inspect(new Error('outer', { cause: error }), { depth: 20 }),
      format('%s %o %O %j', error, error, error, error),
      inspect(error.cause, { depth: 20, showHidden: true }),
      JSON.stringify({ error, list: [error] }),
      JSON.stringify(Object.fromEntries(Object.entries(error))),
      JSON.stringify(Object.entries(error)),
      messagesOfCauses(error)
    ]
    for (const text of printed) expect(text).not.toContain(canary)
  })

  it('is readable by the caller all the same', () => {
    const error = loaded()
    expect(error.partial).toBe(partial)
    expect(error.providerMessage).toBe(canary)
    expect(error.cause).toMatchObject({ name: 'TypeError' })
    expect((error.cause as Error).stack).toContain('error.test.ts')
  })

  it('keeps a cause of the system or of ours as it is, and the code of any other', () => {
    const system = Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:1'), { code: 'ECONNREFUSED', syscall: 'connect' })
    expect(loaded(system).cause).toBe(system)
    expect(inspect(loaded(system))).toContain("cause: 'Error ECONNREFUSED'")
    const ours = loaded()
    expect(loaded(ours).cause).toBe(ours)
    const library = Object.assign(new Error(canary), { code: 'UND_ERR_SOCKET' })
    expect(loaded(library).cause).toMatchObject({ code: 'UND_ERR_SOCKET', message: 'UND_ERR_SOCKET' })
    expect('cause' in new MillraceError('closed', 'closed', { details: {} })).toBe(false)
  })
})

describe('retryable', () => {
  const details: { [C in ErrorCode]: MillraceErrorInit<C>['details'] } = {
    network: { phase: 'connect' },
    timeout: { clock: 'idle', limitMs: 1, elapsedMs: 1 },
    'rate-limited': {},
    'quota-exceeded': {},
    overloaded: {},
    unavailable: {},
    'circuit-open': { origin: 'o', retryAfterMs: 1 },
    'queue-full': { limit: 1 },
    unauthorized: {},
    'invalid-request': {},
    'context-overflow': {},
    'content-filtered': {},
    protocol: { reason: 'malformed' },
    closed: {}
  }

  it('is told by the code, and by the maker where that knows better', () => {
    const retryable = (Object.keys(details) as ErrorCode[]).filter(
      (code) => new MillraceError(code, 'x', { details: details[code] }).retryable
    )
    expect(retryable).toEqual(['network', 'timeout', 'rate-limited', 'overloaded', 'unavailable', 'circuit-open', 'queue-full'])
    expect(new MillraceError('protocol', 'x', { details: { reason: 'incomplete' } }).retryable).toBe(true)
    expect(new MillraceError('timeout', 'x', { details: details.timeout, retryable: false }).retryable).toBe(false)
  })
})

describe('isMillraceError', () => {
  it('narrows to the details of a code', () => {
    const error: unknown = loaded()
    expect(isMillraceError(error)).toBe(true)
    expect(isMillraceError(error, 'unavailable')).toBe(true)
    expect(isMillraceError(error, 'timeout')).toBe(false)
    if (isMillraceError(error, 'timeout'))
      expectTypeOf(error.details.clock).toEqualTypeOf<'queue' | 'connect' | 'headers' | 'first-chunk' | 'idle' | 'total'>()
    for (const other of [undefined, null, 'x', new Error('x'), { code: 'timeout' }, Object.create(null)])
      expect(isMillraceError(other)).toBe(false)
  })

  // Not a literal: the compiler would look for a file of that name.
  const copyOfErrors: string = '../src/error.ts?copy'
  it('works across two copies of the package', async () => {
    const copy = (await import(copyOfErrors)) as typeof import('../src/error.ts')
    expect(copy.MillraceError).not.toBe(MillraceError)
    expect(copy.isMillraceError(loaded(), 'unavailable')).toBe(true)
    const foreign = new copy.MillraceError('closed', 'closed', { details: {} })
    expect(isMillraceError(foreign, 'closed')).toBe(true)
    expect(isMillraceError(annotate(foreign, { partial }), 'closed') && foreign.partial).toBe(partial)
  })
})

describe('annotate', () => {
  it('adds what is missing and changes nothing that is there', () => {
    const error = new MillraceError('closed', 'closed', { details: {}, context: { provider: 'inner', model: undefined } })
    expect(annotate(error, { context: { provider: 'outer', model: 'm', attempt: 3 }, partial })).toBe(error)
    expect(error.context).toEqual({ provider: 'inner', model: 'm', attempt: 3 })
    annotate(error, { partial: { ...partial, text: 'later' } })
    expect(error.partial).toBe(partial)
    expect(Object.keys(error)).not.toContain('partial')
  })

  it('passes what is not ours', () => {
    for (const other of [undefined, 'x', Object.freeze(new Error('x'))])
      expect(annotate(other, { partial, context: {} })).toBe(other)
  })
})

function parseFailure(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    return error
  }
}

/** What pino's serialiser does: message and stack of an error are joined with those of its causes. */
function messagesOfCauses(error: unknown): string {
  return error instanceof Error ? `${error.message} ${error.stack} ${messagesOfCauses(error.cause)}` : ''
}
