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
  Pick<CallRecord, 'model' | 'provider' | 'stream' | 'cache' | 'attempts' | 'firstTextMs' | 'overheadMs' | 'inputTokens' | 'outputTokens'>
>

export interface OpenRecord {
  tell(told: Told): void
  /** The response is out, or was given up. */
  end(status: number, outcome: 'success' | 'error' | 'aborted'): void
}

export interface Recorder extends Disposable {
  /** What is published under `id` as `callId` on the channels of core becomes its spans. */
  begin(request: { readonly id: string; readonly path: string; readonly arrivedAt: number }): OpenRecord
  /** The last 50, newest first. */
  calls(): readonly CallRecord[]
}
