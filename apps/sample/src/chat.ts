import type { AnswerStream } from '@millrace/adapter'
import {
  type CallOptions,
  CallTally,
  type ChatRequest,
  type Chunk,
  checkRequest,
  isJsonObject,
  MillraceError,
  parseJson
} from '@millrace/core'
import { openaiEvents, toSSEResponse } from '@millrace/streaming'
import { type Context, Hono } from 'hono'
import { factsOf } from './call-facts.ts'
import type { GatewayEnv, Parts } from './context.ts'
import { checkURLs, createNameLookup } from './image-urls.ts'
import { checkShape } from './json-shape.ts'
import { errorBody, writeCompletion } from './openai-answer.ts'
import { readRequest } from './openai-request.ts'
import { createPass } from './pass.ts'
import { report } from './report-error.ts'

/** Chat through the adapter; what the contract has no words for goes to the provider untouched. */
export function chatRoutes(parts: Parts): Hono<GatewayEnv> {
  const { adapter, config, streams, streamIds } = parts
  const pass = createPass(parts)
  const lookup = createNameLookup()
  const app = new Hono<GatewayEnv>()

  app.post('/v1/chat/completions', async (context) => {
    const text = await context.req.text()
    checkShape(text)
    const body = parseJson(text)
    if (!isJsonObject(body)) {
      return context.json(errorBody('the body is not a JSON object', 'invalid_request_error', 'invalid_json'), 400)
    }
    if (Array.isArray(body.messages) && body.messages.length > config.maxMessages) {
      throw wrong(`messages: there are ${body.messages.length}, and this gateway takes ${config.maxMessages}`, 'messages')
    }
    await checkURLs(body, config.imageURLs, lookup)
    const request = readRequest(body)
    if (request === undefined) return pass(context, { path: '/chat/completions', body: text, asked: body })
    checkRequest(request)
    context.get('record').tell({ model: request.model, stream: body.stream === true })
    if (body.stream !== true) return complete(context, request)
    const format = openaiEvents({
      includeUsage: isJsonObject(body.stream_options) && body.stream_options.include_usage === true
    })
    return context.req.header('x-millrace-resume') === 'true'
      ? resumable(context, request, format)
      : stream(context, request, format)
  })

  async function complete(context: Context<GatewayEnv>, request: ChatRequest): Promise<Response> {
    const call = callOf(context)
    const completion = await adapter.complete(request, call)
    const facts = factsOf(context, { ...completion, tally: call.tally })
    return context.json(writeCompletion(completion, `chatcmpl-${context.get('requestId')}`, now()), 200, facts)
  }

  /** The head waits for the first content, so that a failure before it still gets its status, and the notes their headers. */
  function stream(
    context: Context<GatewayEnv>,
    request: ChatRequest,
    format: ReturnType<typeof openaiEvents>
  ): Promise<Response> {
    const call = callOf(context)
    const answer = adapter.stream(request, call)
    return toSSEResponse(answer, {
      format,
      maxDurationMs: config.streamMs,
      headers: () => factsOf(context, { ...answer.partial, tally: call.tally }),
      signal: call.signal,
      onError: (error) => report(context, error)
    })
  }

  /** A stream with an id: it outlives its client's connection, which may come back to it, here or at another replica. */
  async function resumable(
    context: Context<GatewayEnv>,
    request: ChatRequest,
    format: ReturnType<typeof openaiEvents>
  ): Promise<Response> {
    const { signal: leaving, ...call } = callOf(context)
    const id = streamIds.make(call.tenant)
    let answer: AnswerStream | undefined
    let failure: { readonly error: unknown } | undefined

    async function* told(signal: AbortSignal): AsyncGenerator<Chunk> {
      try {
        yield* (answer = adapter.stream(request, { ...call, signal }))
      } catch (error) {
        failure = { error }
        throw error
      }
    }

    const { events } = streams.start(told, { format, id })
    try {
      return await toSSEResponse(events, {
        signal: leaving,
        maxDurationMs: config.streamMs,
        headers: () => {
          // Nothing has come yet, so the failure can have its status instead of an event.
          if (failure !== undefined && answer?.partial.text === '' && answer.partial.toolCalls.length === 0) throw failure.error
          const facts = answer === undefined ? {} : factsOf(context, { ...answer.partial, tally: call.tally })
          return { ...facts, 'x-millrace-stream-id': id }
        },
        onError: (error) => report(context, error)
      })
    } catch (error) {
      // Its client does not know the id: nobody will come back to it.
      await streams.cancel(id)
      throw error
    }
  }

  return app
}

/** The call ends with its caller, and is part of its caller's trace: who comes so far has the token, or is on this machine. */
function callOf(context: Context<GatewayEnv>): CallOptions & { readonly signal: AbortSignal; readonly tally: CallTally } {
  const { signal, headers } = context.req.raw
  return {
    signal,
    tally: new CallTally(),
    callId: context.get('requestId'),
    tenant: context.get('caller').tenant,
    telemetry: { parent: headers }
  }
}

function wrong(message: string, path: string): MillraceError<'invalid-request'> {
  return new MillraceError('invalid-request', message, { details: { path } })
}

function now(): number {
  return Math.floor(Date.now() / 1000)
}
