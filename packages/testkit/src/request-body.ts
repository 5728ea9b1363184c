import type { IncomingMessage } from 'node:http'
import { isObject, type JsonObject, Refusal } from './dialect.ts'

const maxBodyBytes = 4 * 1024 * 1024

/**
 * The body of a request as a JSON object. One that is too large is answered early and the rest of it thrown away, so that
 * its sender can read why.
 *
 * @throws {Refusal} 413 above 4 MiB, 400 for what is no JSON object
 */
export async function readBody(incoming: IncomingMessage): Promise<JsonObject> {
  const text = await readText(incoming)
  let body: unknown
  try {
    body = JSON.parse(text)
  } catch {
    throw new Refusal(400, 'the body is not valid JSON')
  }
  if (!isObject(body)) throw new Refusal(400, 'the body must be a JSON object')
  return body
}

function readText(incoming: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = []
    let bytes = 0
    incoming.on('data', (part: Buffer) => {
      bytes += part.length
      if (bytes <= maxBodyBytes) parts.push(part)
      else {
        parts.length = 0
        reject(new Refusal(413, `a body may have ${maxBodyBytes} bytes`, null, 'request_too_large'))
      }
    })
    incoming.on('end', () => resolve(Buffer.concat(parts).toString()))
    // Nobody is left to be told; the refusal only ends the wait.
    incoming.on('close', () => reject(new Refusal(400, 'the body was broken off')))
    incoming.on('error', () => reject(new Refusal(400, 'the body was broken off')))
  })
}
