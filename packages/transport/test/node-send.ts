import { Agent, request as nodeRequest } from 'node:http'
import type { HttpRequest, HttpResponse, Send } from '@millrace/core'
import { bufferedBody } from '../src/buffered-body.ts'

/** The smallest `Send` over real sockets, so that a layer is tested with nothing of the transport around it. Resolves with the whole body. */
export function nodeSend(agent: Agent = new Agent()): Send {
  return ({ method, url, headers, body, signal, attempt = 1 }: HttpRequest) =>
    new Promise<HttpResponse>((resolve, reject) => {
      const fail = (error: unknown): void => reject(signal?.aborted === true ? signal.reason : error)
      const sent = nodeRequest(url, { method, headers, agent, ...(signal === undefined ? {} : { signal }) }, (response) => {
        const pieces: Buffer[] = []
        response.on('data', (piece: Buffer) => pieces.push(piece))
        response.on('error', fail)
        response.on('end', () => {
          const text = Buffer.concat(pieces).toString()
          resolve({ status: response.statusCode ?? 0, headers: {}, body: bufferedBody(text), attempts: attempt })
        })
      })
      sent.on('error', fail)
      sent.end(body)
    })
}
