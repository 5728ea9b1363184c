import type { IncomingMessage } from 'node:http'
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import { countLogs, metricsOf, type OtlpMetric, type OtlpSpan, spansOf } from './otlp-data.ts'
import { readOtlpJson } from './otlp-json.ts'
import { otlpMessages } from './otlp-messages.ts'
import { readProtobuf, readText } from './protobuf.ts'

const unzip = promisify(gunzip)

/** What a request carries. */
export interface Cargo {
  readonly spans: readonly OtlpSpan[]
  readonly metrics: readonly OtlpMetric[]
  /** How many records. */
  readonly logs: number
}

export const noCargo: Cargo = { spans: [], metrics: [], logs: 0 }

const messageOf: ReadonlyMap<string, string> = new Map([
  ['/v1/traces', 'ExportTraceServiceRequest'],
  ['/v1/metrics', 'ExportMetricsServiceRequest'],
  ['/v1/logs', 'ExportLogsServiceRequest']
])

/** What the sender did wrong, with the status of the answer. */
export class Malformed extends Error {
  override name = 'Malformed'
  readonly status: number

  constructor(status: number, message: string, options?: ErrorOptions) {
    super(message, options)
    this.status = status
  }
}

/**
 * `undefined` when the client left before its body was whole.
 *
 * @throws {Malformed} for one that is too long; it is read to its end, so that the answer is heard
 */
export async function readBody(incoming: IncomingMessage, maxBytes: number): Promise<Buffer | undefined> {
  const parts: Buffer[] = []
  let length = 0
  try {
    for await (const part of incoming as AsyncIterable<Buffer>) {
      length += part.length
      if (length <= maxBytes) parts.push(part)
    }
  } catch (error) {
    if (incoming.complete) throw error
    return undefined
  }
  if (length > maxBytes) throw tooLong(maxBytes)
  return Buffer.concat(parts)
}

function tooLong(maxBytes: number, cause?: unknown): Malformed {
  return new Malformed(413, `a body of more than ${maxBytes} bytes`, { cause })
}

/** @throws {Malformed} for what is not packed as it says, and what unpacks to more than `maxBytes` */
export async function unpack(body: Buffer, encoding: string, maxBytes: number): Promise<Buffer> {
  if (encoding === 'identity') return body
  if (encoding !== 'gzip') throw new Malformed(415, `content-encoding ${encoding}, which a collector need not know`)
  try {
    return await unzip(body, { maxOutputLength: maxBytes })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') throw tooLong(maxBytes, error)
    throw new Malformed(400, 'the body is no gzip', { cause: error })
  }
}

/** @throws {Malformed} for what is no OTLP/HTTP */
export function readCargo({ method, url = '' }: IncomingMessage, contentType: string, body: Buffer): Cargo {
  const message = messageOf.get(url)
  if (message === undefined) throw new Malformed(404, 'a collector has /v1/traces, /v1/metrics and /v1/logs')
  if (method !== 'POST') throw new Malformed(405, 'OTLP is sent with POST')
  if (contentType !== 'application/x-protobuf' && contentType !== 'application/json') {
    throw new Malformed(415, `content-type ${contentType}, not application/x-protobuf or application/json`)
  }
  try {
    const request =
      contentType === 'application/json'
        ? readOtlpJson(JSON.parse(readText(body)), otlpMessages, message)
        : readProtobuf(body, otlpMessages, message)
    if (url === '/v1/traces') return { ...noCargo, spans: spansOf(request) }
    if (url === '/v1/metrics') return { ...noCargo, metrics: metricsOf(request) }
    return { ...noCargo, logs: countLogs(request) }
  } catch (error) {
    throw new Malformed(400, (error as Error).message, { cause: error })
  }
}

/** A body as a search needs it: every byte, as UTF-8, and the names and texts of JSON without their escapes. */
export function searchableText(body: Buffer): string {
  const texts = [body.toString('latin1'), body.toString('utf8')]
  const collect = (value: unknown): void => {
    if (typeof value === 'string') texts.push(value)
    else if (typeof value === 'object' && value !== null) {
      for (const [key, item] of Object.entries(value)) {
        texts.push(key)
        collect(item)
      }
    }
  }
  try {
    collect(JSON.parse(body.toString()))
  } catch {
    // It is no JSON: in protobuf texts stand as they are.
  }
  return texts.join('\n')
}
