import { setTimeout as delay } from 'node:timers/promises'
import { perSecond, type Topology } from './topology.ts'
import { ask, type CallTarget, cancel, resume, type SeenCall } from './topology-call.ts'

/** One thing that replicas do as one, tried. */
export interface Proof {
  readonly claim: string
  /** What was counted. */
  readonly figure: string
  readonly holds: boolean
  /** Model calls that were sent for it. */
  readonly calls: number
}

/** The same new question to all replicas at once: one call to the provider, and one answer. */
export async function proveOneCall(topology: Topology): Promise<Proof> {
  const { replicas, provider } = topology
  const before = await provider.stats()
  const askers = 10 * replicas.length
  const answers = await Promise.all(
    Array.from({ length: askers }, (_, index) => ask(targetOf(topology, index), 'What does one question cost three gateways?'))
  )
  const later = await Promise.all(
    replicas.map((_, index) => ask(targetOf(topology, index), 'What does one question cost three gateways?'))
  )
  const calls = (await provider.stats()).accepted - before.accepted
  const all = [...answers, ...later]
  const texts = new Set(all.map(({ text }) => text))
  return {
    claim: 'one question to all replicas is one call',
    figure: `${askers} askers at once, ${later.length} later (${states(all)}): ${count(calls, 'call')} to the provider`,
    holds:
      calls === 1 && texts.size === 1 && all.every(({ complete }) => complete) && later.every(({ cache }) => cache === 'hit'),
    calls: all.length
  }
}

/** More questions at once than the provider lets through in two seconds: it refuses none of them. */
export async function proveOneLimit(topology: Topology): Promise<Proof> {
  const { provider, balancer } = topology
  const before = await provider.stats()
  const startedAt = performance.now()
  const questions = perSecond.gateways * 3
  const answers = await askMany(questions, (index) =>
    ask({ ...topology, url: balancer.url }, `Question ${index} of a crowd: why?`)
  )
  const seconds = (performance.now() - startedAt) / 1000
  const after = await provider.stats()
  const refused = after.rateLimited - before.rateLimited
  const answered = answers.filter(({ complete }) => complete).length
  return {
    claim: `one limit of ${perSecond.gateways} calls a second holds for all replicas`,
    figure: `${answered} of ${questions} answered in ${seconds.toFixed(1)} s, ${refused} refused by the provider`,
    // At first a second's worth at once; then two seconds at the least.
    holds: answered === questions && refused === 0 && after.accepted - before.accepted === questions && seconds > 2,
    calls: questions
  }
}

/** A stream begun at one replica goes on at another, without a gap and without another call. */
export async function proveResume(topology: Topology): Promise<Proof> {
  const { provider } = topology
  const before = await provider.stats()
  const question = 'How does a stream go on at another gateway?'
  const begun = await ask(targetOf(topology, 0), question, { resume: true, events: 6 })
  const rest = await resume(targetOf(topology, 1), begun.streamId ?? 'none', begun.lastEventId ?? 'none')
  const calls = (await provider.stats()).accepted - before.accepted
  // The answer as a whole, from the cache that all share.
  const whole = await ask(targetOf(topology, 2), question)
  return {
    claim: 'a stream begun at one replica goes on at another',
    figure: `${begun.text.length} letters at the first, ${rest.text.length} at the second, ${whole.text.length} in all; ${count(calls, 'call')}`,
    holds: rest.complete && begun.text !== '' && begun.text + rest.text === whole.text && calls === 1,
    calls: 2
  }
}

/** A stream that runs at one replica is stopped from another, at the provider too. */
export async function proveCancel(topology: Topology): Promise<Proof> {
  const question = 'How is a stream stopped from elsewhere?'
  const { promise: first, resolve: onFirst } = Promise.withResolvers<string | undefined>()
  const running = ask(targetOf(topology, 0), question, { resume: true, onFirst })
  const streamId = await Promise.race([first, running.then(() => undefined)])
  const startedAt = performance.now()
  const cancelled = await cancel(targetOf(topology, 2), streamId ?? 'none')
  const { text } = await running
  const endedMs = Math.round(performance.now() - startedAt)
  const open = await untilIdle(topology)
  // What was cut short is not kept: this is another call.
  const whole = await ask(targetOf(topology, 1), question)
  return {
    claim: 'a stream is cancelled from a third replica',
    figure: `${endedMs} ms later it ended at the first, after ${text.length} of ${whole.text.length} letters; ${count(open, 'answer')} left open at the provider`,
    holds: cancelled && open === 0 && whole.complete && text.length < whole.text.length && whole.text.startsWith(text),
    calls: 2
  }
}

/** A replica is asked to end in the middle of a load: each of its calls is answered, and the others take the rest. */
export async function proveDrain(topology: Topology, index: number): Promise<Proof> {
  const running = load(topology, 'drain')
  await delay(loadMs / 2)
  const atEnd = topology.balancer.stats().open[index] ?? 0
  const code = await topology.replicas[index]?.terminate()
  const { calls, lost, words } = outcome(await running)
  return {
    claim: 'a replica that is asked to end loses no call',
    figure: `${calls} calls, ${atEnd} of them at this replica when SIGTERM came, ${words}; exit code ${code}`,
    holds: lost === 0 && code === 0 && atEnd > 0,
    calls
  }
}

/** A replica is killed in the middle of a load: only what it was answering is lost. */
export async function proveCrash(topology: Topology, index: number): Promise<Proof> {
  const running = load(topology, 'crash')
  await delay(loadMs / 2)
  const atEnd = topology.balancer.stats().open[index] ?? 0
  await topology.replicas[index]?.kill()
  const { calls, lost, words } = outcome(await running)
  return {
    claim: 'a replica that is killed loses only what it was answering',
    figure: `${calls} calls, ${atEnd} of them at this replica when it was killed, ${words}`,
    holds: lost <= atEnd && atEnd > 0,
    calls
  }
}

/** Replicas that were away are started again, and take their part. */
export async function proveReturn(topology: Topology, indexes: readonly number[]): Promise<Proof> {
  const { replicas, balancer } = topology
  await Promise.all(indexes.map(async (index) => replicas[index]?.restart()))
  const before = balancer.stats().served
  const { calls, lost, words } = outcome(await load(topology, 'return'))
  const shares = balancer.stats().served.map((served, index) => served - (before[index] ?? 0))
  return {
    claim: 'replicas that come back take their part',
    figure: `${calls} calls, dealt out ${shares.join(', ')}; ${words}`,
    holds: lost === 0 && shares.every((share) => share > 0),
    calls
  }
}

const loadMs = 2000
const loadPerSecond = 25

/** Different questions, evenly in time, through the balancer; nobody asks twice. */
function load(topology: Topology, name: string): Promise<SeenCall[]> {
  const target = { ...topology, url: topology.balancer.url }
  return askMany((loadMs / 1000) * loadPerSecond, async (index) => {
    await delay((index * 1000) / loadPerSecond)
    return ask(target, `Question ${index} of the load ${name}: what is new?`)
  })
}

function askMany(calls: number, one: (index: number) => Promise<SeenCall>): Promise<SeenCall[]> {
  return Promise.all(Array.from({ length: calls }, (_, index) => one(index)))
}

interface Outcome {
  readonly calls: number
  readonly lost: number
  /** How many, and for what reasons. */
  readonly words: string
}

function outcome(seen: readonly SeenCall[]): Outcome {
  const reasons = seen.flatMap(({ complete, error }) => (complete ? [] : [error]))
  const different = [...new Set(reasons)].join('; ')
  return { calls: seen.length, lost: reasons.length, words: `${reasons.length} lost${different && ` (${different})`}` }
}

function targetOf({ replicas, token, model }: Topology, index: number): CallTarget {
  const { url } = replicas[index % replicas.length] as Topology['replicas'][number]
  return { url, token, model }
}

/** What is left open at the provider when it is done with the rest, or after 2 s. */
async function untilIdle({ provider }: Topology): Promise<number> {
  const until = performance.now() + 2000
  for (;;) {
    const { openAnswers } = await provider.stats()
    if (openAnswers === 0 || performance.now() > until) return openAnswers
    await delay(20)
  }
}

function states(seen: readonly SeenCall[]): string {
  const counts = new Map<string, number>()
  for (const { cache = 'none' } of seen) counts.set(cache, (counts.get(cache) ?? 0) + 1)
  return [...counts].map(([state, times]) => `${times} ${state}`).join(', ')
}

function count(value: number, noun: string): string {
  return `${value} ${noun}${value === 1 ? '' : 's'}`
}
