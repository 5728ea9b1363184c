import {
  type AttemptEnd,
  type AttemptStart,
  type CacheLookup,
  type CallContent,
  type CallEnd,
  type CallStart,
  type ChannelMessage,
  channels
} from '@millrace/core'
import { RecordedCall } from './recorded-call.ts'

/** A stretch of time of a call, in milliseconds since the request arrived. */
export interface RecordedSpan {
  /** `limits`, `cache`, `attempt 1`, `first text`, `stream`. */
  readonly name: string
  readonly startMs: number
  /** Absent while it runs. */
  readonly endMs?: number | undefined
  /** What came of it in a few words, such as `429` or `hit`; never content. */
  readonly told?: string | undefined
  readonly failed?: boolean | undefined
}

/** One request to the gateway, without its content. */
export interface CallRecord {
  readonly id: string
  /** Milliseconds since 1970. */
  readonly at: number
  readonly path: string
  readonly model?: string | undefined
  readonly provider?: string | undefined
  readonly stream?: boolean | undefined
  readonly status?: number | undefined
  /** Of the request; `running` until its response is out. */
  readonly outcome: 'running' | 'success' | 'error' | 'aborted'
  readonly cache?: string | undefined
  readonly attempts?: number | undefined
  readonly totalMs?: number | undefined
  readonly firstTextMs?: number | undefined
  readonly overheadMs?: number | undefined
  readonly inputTokens?: number | undefined
  readonly outputTokens?: number | undefined
  /** USD of billed tokens. */
  readonly cost?: number | undefined
  /** What tokens that were not billed are worth. */
  readonly saved?: number | undefined
  readonly spans: readonly RecordedSpan[]
}

/** What routes tell of their request. */
export type Told = Partial<
  Pick<
    CallRecord,
    'model' | 'provider' | 'stream' | 'cache' | 'attempts' | 'firstTextMs' | 'overheadMs' | 'inputTokens' | 'outputTokens'
  >
> & {
  /** For limits, where the call does not tell: its span. */
  readonly waitedMs?: number | undefined
  /** Its calls may be made by other processes: what is heard of them here is not all, and counts for nothing. */
  readonly isShared?: boolean | undefined
}

export interface OpenRecord {
  tell(told: Told): void
  /** The response is out, or was given up. */
  end(status: number, outcome: 'success' | 'error' | 'aborted'): void
}

export interface Recorder extends Disposable {
  /** What is published under `id` as `callId` on the channels of core, or as `id-1` and so on of a batch, becomes its spans. */
  begin(request: { readonly id: string; readonly path: string; readonly arrivedAt: number }): OpenRecord
  /** The last 50, newest first. Requests that only look at the gateway are not among them. */
  calls(): readonly CallRecord[]
  /** Messages that could not be read; they never reach a call. */
  readonly failures: number
}

const maxCalls = 50
/** Requests under way that are listened for; beyond, the oldest gets no further spans. */
const maxOpen = 2000
/** Paths by which the operator looks at the gateway: they are no calls, and have bounds of their own. */
export const looking: ReadonlySet<string> = new Set(['/v1/live', '/v1/stats', '/v1/faults'])

/** Keeps the last requests of a gateway, and draws their spans from what is published under their ids. */
export function createRecorder(): Recorder {
  const open = new Map<string, RecordedCall>()
  const last: RecordedCall[] = []
  let failures = 0

  /** Calls of a batch have a number behind its id. */
  function callOf(id: string): RecordedCall | undefined {
    return open.get(id) ?? open.get(id.slice(0, Math.max(0, id.lastIndexOf('-'))))
  }

  /** An exception in a channel's listener would end the process. Messages of other gateways in this process have other ids. */
  function heard<M extends ChannelMessage>(tell: (call: RecordedCall, message: M) => void): (message: M) => void {
    return (message) => {
      const call = callOf(message.callId)
      if (call === undefined) return
      try {
        tell(call, message)
      } catch {
        failures++
      }
    }
  }

  const onCallStart = heard<CallStart>((call, message) => call.started(message))
  const onCallContent = heard<CallContent>((call, message) => call.received(message))
  const onCallEnd = heard<CallEnd>((call, message) => {
    call.finished(message)
    forget(call)
  })
  const onAttemptStart = heard<AttemptStart>((call, message) => call.attemptStarted(message))
  const onAttemptEnd = heard<AttemptEnd>((call, message) => call.attemptEnded(message))
  const onCacheLookup = heard<CacheLookup>((call, message) => call.lookedUp(message))
  channels.callStart.subscribe(onCallStart)
  channels.callContent.subscribe(onCallContent)
  channels.callEnd.subscribe(onCallEnd)
  channels.attemptStart.subscribe(onAttemptStart)
  channels.attemptEnd.subscribe(onAttemptEnd)
  channels.cacheLookup.subscribe(onCacheLookup)

  /** A stream that can be resumed outlives its response: what it cost is still to come. */
  function forget(call: RecordedCall): void {
    if (call.isOver) open.delete(call.id)
  }

  return {
    begin({ id, path, arrivedAt }) {
      if (!path.startsWith('/v1/') || looking.has(path)) return { tell() {}, end() {} }
      const call = new RecordedCall({ id, path, arrivedAt })
      open.set(id, call)
      for (const oldest of open.keys()) {
        if (open.size <= maxOpen) break
        open.delete(oldest)
      }
      last.push(call)
      if (last.length > maxCalls) last.shift()
      return {
        tell: (told) => call.tell(told),
        end(status, outcome) {
          call.end(status, outcome)
          forget(call)
        }
      }
    },
    calls: () => last.toReversed().map((call) => call.record()),
    get failures() {
      return failures
    },
    [Symbol.dispose]() {
      channels.callStart.unsubscribe(onCallStart)
      channels.callContent.unsubscribe(onCallContent)
      channels.callEnd.unsubscribe(onCallEnd)
      channels.attemptStart.unsubscribe(onAttemptStart)
      channels.attemptEnd.unsubscribe(onAttemptEnd)
      channels.cacheLookup.unsubscribe(onCacheLookup)
      open.clear()
    }
  }
}
