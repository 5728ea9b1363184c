import { createHash } from 'node:crypto'
import type { HttpBindings } from '@hono/node-server'
import { isJsonObject, isMillraceError, type Json, type JsonObject, MillraceError, parseJson } from '@millrace/core'
import { openaiError } from '@millrace/streaming'
import { type Context, Hono } from 'hono'
import { createAdmission } from './admission.ts'
import { type BatchItem, type LineFault, maxBatches } from './batches.ts'
import type { GatewayEnv, Parts } from './context.ts'
import { checkURLs, createNameLookup } from './image-urls.ts'
import { checkShape } from './json-shape.ts'
import { report } from './report-error.ts'
import { type RequestLine, requestLines } from './request-lines.ts'

/** As many as OpenAI's own batches take: each name is remembered, so that none is answered twice. */
const maxLines = 50_000
const maxIdChars = 512
const maxBatchesPerClient = 4

/**
 * Batches in OpenAI's file format, one request a line, answered line by line as answers are known. The body is read as
 * answers are taken, so it may be as long as it likes, and a client must read while it sends. A line that cannot be asked
 * gets a line that says why; a failure of the whole is the last line, without a `custom_id`. Leaving ends what runs.
 */
export function batchRoutes(parts: Parts): Hono<GatewayEnv> {
  const { config, batches } = parts
  const lookup = createNameLookup()
  const running = createAdmission({ maxRequests: maxBatches, maxRequestsPerClient: maxBatchesPerClient })
  const app = new Hono<GatewayEnv>()

  app.post('/v1/batch', (context) => {
    if (context.req.header('content-type')?.startsWith('multipart/') === true) {
      throw new MillraceError(
        'invalid-request',
        'a form is no batch: send the lines themselves, as curl --data-binary @in.jsonl does',
        {
          details: { path: 'body' }
        }
      )
    }
    if (parts.redis !== undefined) context.get('record').tell({ isShared: true })
    const leave = running.enter(context.get('caller').countedAs)
    const { outgoing } = context.env as HttpBindings
    outgoing.once('close', leave)
    const lines = new BatchLines(context.get('requestId'))
    const outcomes = batches.run(items(context, lines), context.req.raw.signal)[Symbol.asyncIterator]()
    const body = new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          try {
            const { done, value } = await outcomes.next()
            if (done === true) return controller.close()
            const { index } = value
            if (value.status === 'rejected') {
              report(context, value.reason)
              controller.enqueue(lines.failed(index, value.reason))
            } else if ('refused' in value.value) controller.enqueue(lines.refused(index, value.value.refused))
            else controller.enqueue(lines.answered(index, value.value.text))
          } catch (error) {
            report(context, error)
            // A broken end would look like the lines that are missing had never been asked for.
            const { code, message } = openaiError(error).body.error
            controller.enqueue(lines.broken({ code, message }))
            controller.close()
          }
        },
        async cancel() {
          await outcomes.return?.()
        }
      },
      { highWaterMark: 0 }
    )
    return new Response(body, { headers: { 'content-type': 'application/jsonl' } })
  })

  async function* items(context: Context<GatewayEnv>, lines: BatchLines): AsyncGenerator<BatchItem> {
    const { body } = context.req.raw
    if (body === null) return
    const { tenant } = context.get('caller')
    for await (const line of requestLines(body, config.maxBodyBytes)) {
      if ('text' in line && line.text.trim() === '') continue
      const callId = lines.begin()
      try {
        const request = await readLine(line, lines)
        yield { body: request, bytes: bytesOf(line), callId, ...(tenant !== undefined && { tenant }) }
      } catch (error) {
        if (error instanceof FaultyLine) yield { refused: error.fault }
        // Of checks; what is wrong with the input as a whole ends the batch.
        else if (isMillraceError(error, 'invalid-request')) yield { refused: { code: 'invalid_request', message: error.message } }
        else throw error
      }
      if (lines.count < maxLines) continue
      lines.begin()
      return yield {
        refused: { code: 'too_many_lines', message: `a batch has at most ${maxLines} lines: send the rest as another` }
      }
    }
  }

  /** @throws {FaultyLine} */
  async function readLine(line: RequestLine, lines: BatchLines): Promise<JsonObject> {
    if ('tooLong' in line) throw new FaultyLine('line_too_long', `the line is longer than ${config.maxBodyBytes} bytes`)
    checkShape(line.text)
    const request = parseJson(line.text)
    if (!isJsonObject(request)) throw new FaultyLine('invalid_json_line', 'the line is not a JSON object')
    lines.name(request.custom_id)
    const { method, url, body } = request
    if (method !== 'POST') throw new FaultyLine('invalid_method', 'method must be POST')
    if (url !== chatPath) throw new FaultyLine('invalid_url', `url must be ${chatPath}`)
    if (!isJsonObject(body)) throw new FaultyLine('invalid_request', 'body must be a JSON object')
    if (body.stream === true) throw new FaultyLine('invalid_request', 'body.stream must be false: the lines are the stream')
    if (Array.isArray(body.messages) && body.messages.length > config.maxMessages) {
      throw new FaultyLine(
        'invalid_request',
        `body.messages: there are ${body.messages.length}, and this gateway takes ${config.maxMessages}`
      )
    }
    await checkURLs(body, config.imageURLs, lookup)
    return body
  }

  return app
}

function bytesOf(line: RequestLine): number {
  return 'text' in line ? Buffer.byteLength(line.text) : 0
}

const chatPath = '/v1/chat/completions'

class FaultyLine extends Error {
  readonly fault: LineFault

  constructor(code: string, message: string) {
    super(message)
    this.fault = { code, message }
  }
}

/** Names of the lines of one batch, and what is written for them. */
class BatchLines {
  count = 0
  readonly #requestId: string
  /** Of lines that have no outcome yet, by index. */
  readonly #names = new Map<number, string>()
  /** Digests: fifty thousand numbers are less to keep than as many names. */
  readonly #seen = new Set<number>()

  constructor(requestId: string) {
    this.#requestId = requestId
  }

  /** The next line: its call's id. */
  begin(): string {
    return this.#idOf(this.count++)
  }

  /** @throws {FaultyLine} for no name, and for one that another line has */
  name(id: Json | undefined): void {
    if (typeof id !== 'string' || id === '' || id.length > maxIdChars) {
      throw new FaultyLine('invalid_custom_id', `custom_id must be a text of 1 to ${maxIdChars} characters`)
    }
    this.#names.set(this.count - 1, id)
    const digest = createHash('sha256').update(id).digest().readUIntBE(0, 6)
    if (this.#seen.has(digest)) throw new FaultyLine('duplicate_custom_id', 'another line of this batch has the same custom_id')
    this.#seen.add(digest)
  }

  answered(index: number, body: string): Uint8Array {
    return this.#write(index, `{"status_code":200,"request_id":${JSON.stringify(this.#idOf(index))},"body":${body}}`, 'null')
  }

  /** As the same request by itself would have been answered. */
  failed(index: number, reason: unknown): Uint8Array {
    const { status, body } = openaiError(reason)
    return this.#write(index, JSON.stringify({ status_code: status, request_id: this.#idOf(index), body }), 'null')
  }

  refused(index: number, fault: LineFault): Uint8Array {
    return this.#write(index, 'null', JSON.stringify(fault))
  }

  /** The last line of a batch that ends before its time. */
  broken(fault: LineFault): Uint8Array {
    return this.#line(`batch_${this.#requestId}`, null, 'null', JSON.stringify(fault))
  }

  #idOf(index: number): string {
    return `${this.#requestId}-${index}`
  }

  #write(index: number, response: string, error: string): Uint8Array {
    const name = this.#names.get(index) ?? null
    this.#names.delete(index)
    return this.#line(`batch_${this.#idOf(index)}`, name, response, error)
  }

  #line(id: string, name: string | null, response: string, error: string): Uint8Array {
    const text = `{"id":${JSON.stringify(id)},"custom_id":${JSON.stringify(name)},"response":${response},"error":${error}}\n`
    return encoder.encode(text)
  }
}

const encoder = new TextEncoder()
