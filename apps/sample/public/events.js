/**
 * The server-sent events of a response as they come. A part of an event at the end is dropped, as the standard has it.
 *
 * @param {Response} response
 * @returns {AsyncGenerator<{ id: string | undefined, data: string }, void, void>}
 */
export async function* readEvents(response) {
  if (response.body === null) return
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let pending = ''
  /** @type {string[]} */
  let data = []
  /** @type {string | undefined} */
  let id
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      const lines = (pending + value).split('\n')
      pending = lines.pop() ?? ''
      for (const raw of lines) {
        const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw
        if (line === '' && data.length > 0) {
          yield { id, data: data.join('\n') }
          data = []
        }
        const [, name, text = ''] = /^([^:]+):? ?(.*)$/.exec(line) ?? []
        if (name === 'data') data.push(text)
        if (name === 'id') id = text
      }
    }
  } finally {
    // Leaving early must end the request too; one that has failed already has nothing left to end.
    reader.cancel().catch(() => {})
  }
}
