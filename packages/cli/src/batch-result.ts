import { hash } from 'node:crypto'
import { type ErrorCode, isMillraceError } from '@millrace/core'
import type { FormatName } from './batch-line.ts'

/** What the provider answered, whatever its status. */
export interface Answer {
  readonly status: number
  /** The provider's own; empty where it gives none. */
  readonly requestId: string
  /** JSON text on one line, as it came. */
  readonly body: string
}

/** Why an item has no answer. */
export interface Failure {
  readonly code: string
  readonly message: string
}

/** The line of an item that was answered, as the provider's Batch API writes it. */
export function answerLine(customId: string | undefined, answer: Answer, format: FormatName): string {
  const { status, requestId, body } = answer
  if (format === 'anthropic') {
    return anthropicLine(
      customId,
      isSuccess(answer) ? `{"type":"succeeded","message":${body}}` : `{"type":"errored","error":${body}}`
    )
  }
  return openaiLine(customId, `{"status_code":${status},"request_id":${JSON.stringify(requestId)},"body":${body}}`, 'null')
}

/** The line of an item that got no answer. */
export function failureLine(customId: string | undefined, { code, message }: Failure, format: FormatName): string {
  if (format === 'openai') return openaiLine(customId, 'null', JSON.stringify({ code, message }))
  const error = { type: 'error', error: { type: anthropicTypes[code] ?? 'api_error', message }, request_id: null }
  return anthropicLine(customId, `{"type":"errored","error":${JSON.stringify(error)}}`)
}

export function isSuccess({ status }: Answer): boolean {
  return status < 300
}

/** A name and a text for the file. OpenAI's name where it has one; the text of an error that is not ours is not shown. */
export function failureOf(reason: unknown): Failure {
  if (isMillraceError(reason, 'timeout')) return { code: 'request_timeout', message: reason.message }
  if (isMillraceError(reason)) return { code: reason.code, message: reason.message }
  const { code, message } = (reason ?? {}) as { code?: unknown; message?: unknown }
  const told = typeof code === 'string' && typeof message === 'string'
  return told
    ? { code: code === 'timeout' ? 'request_timeout' : code, message }
    : { code: 'failed', message: 'the request failed' }
}

// Written by hand, so that the answer's own text goes in unread.
function openaiLine(customId: string | undefined, response: string, error: string): string {
  const id = `batch_req_${hash('sha1', customId ?? '', 'hex').slice(0, 24)}`
  return `{"id":"${id}","custom_id":${JSON.stringify(customId ?? null)},"response":${response},"error":${error}}\n`
}

function anthropicLine(customId: string | undefined, result: string): string {
  return `{"custom_id":${JSON.stringify(customId ?? null)},"result":${result}}\n`
}

const anthropicTypes: Readonly<Partial<Record<ErrorCode | 'request_timeout' | 'invalid_line', string>>> &
  Readonly<Record<string, string>> = {
  request_timeout: 'timeout_error',
  'rate-limited': 'rate_limit_error',
  overloaded: 'overloaded_error',
  unauthorized: 'authentication_error',
  'invalid-request': 'invalid_request_error',
  invalid_line: 'invalid_request_error'
}
