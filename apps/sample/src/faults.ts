export type ProviderFault = 'none' | 'slow' | 'rate-limit' | 'reset'
export type RedisFault = 'none' | 'frozen'

export interface FaultState {
  readonly provider: ProviderFault
  readonly redis: RedisFault
  /** What can be switched on here; empty where faults are off. */
  readonly available: { readonly provider: readonly ProviderFault[]; readonly redis: readonly RedisFault[] }
}

/** Faults that a visitor may inject, to watch what becomes of calls. */
export interface Faults extends AsyncDisposable {
  state(): FaultState
  /** @throws {MillraceError} `invalid-request` for what is not available */
  set(wanted: { readonly provider?: ProviderFault | undefined; readonly redis?: RedisFault | undefined }): Promise<void>
}
