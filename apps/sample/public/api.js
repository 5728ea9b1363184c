const kept = 'millrace-token'

/**
 * What a request was refused with, in words for the reader.
 */
export class Refused extends Error {
  /**
   * @param {number} status
   * @param {string} message
   * @param {Headers} [headers]
   */
  constructor(status, message, headers = new Headers()) {
    super(message)
    this.status = status
    this.headers = headers
  }
}

/**
 * The gateway's API with the visitor's token.
 *
 * @param {() => void} onUnauthorized the token is missing or wrong
 */
export function createApi(onUnauthorized) {
  let token = sessionStorage.getItem(kept) ?? ''
  return {
    /** @param {string} given */
    setToken(given) {
      token = given
      sessionStorage.setItem(kept, given)
    },

    /**
     * @param {string} path
     * @param {RequestInit} [init]
     * @returns {Promise<Response>}
     * @throws {Refused} for every status that is no success
     */
    async fetch(path, init = {}) {
      const headers = new Headers(init.headers)
      if (token !== '') headers.set('authorization', `Bearer ${token}`)
      const response = await fetch(path, { ...init, headers })
      if (response.ok) return response
      if (response.status === 401) onUnauthorized()
      throw new Refused(response.status, await reasonOf(response), response.headers)
    }
  }
}

/** @typedef {ReturnType<typeof createApi>} Api */

/** @param {Response} response */
async function reasonOf(response) {
  const text = await response.text()
  try {
    const { error } = JSON.parse(text)
    return error.code ? `${error.message} (${error.code})` : String(error.message)
  } catch {
    // Not ours: something in between answered, and what it wrote is all there is to show.
    return text.slice(0, 200) || response.statusText
  }
}
