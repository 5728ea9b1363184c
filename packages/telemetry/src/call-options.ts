declare module '@millrace/core' {
  interface CallOptions {
    /** What telemetry is told about this call; without a telemetry it is ignored. */
    readonly telemetry?: TelemetryCallOptions | undefined
  }
}

/** The key `telemetry` of a call's options. Nothing in it fails a call: what cannot be used is left out and counted. */
export interface TelemetryCallOptions {
  /**
   * Headers of the request that this call serves, such as `request.headers`: its `traceparent` becomes the parent of the
   * call's span, if your SDK has registered a propagator. Take it only from callers whose trace ids you trust.
   * @default the span that is active where the call is made
   */
  readonly parent?: Headers | Readonly<Record<string, string | readonly string[] | undefined>> | undefined
  /**
   * Put on the call's span, never on a metric: at most 32, texts up to 1024 characters. For ids of users and conversations,
   * such as `{ 'gen_ai.conversation.id': id }`.
   */
  readonly attributes?: Readonly<Record<string, string | number | boolean>> | undefined
}
