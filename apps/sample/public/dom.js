/**
 * The element of the page with this id, of the class it is taken for.
 *
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function byId(id, type) {
  const found = document.getElementById(id)
  if (!(found instanceof type)) throw new TypeError(`index.html has no ${type.name} with the id ${id}`)
  return found
}

/**
 * A new element. Texts become text, never HTML: answers and errors may hold anything.
 *
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {...(Node | string)} children
 */
export function element(tag, attributes, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children)
  return made
}

/**
 * Changes a text only where it differs, so that a selection and a screen reader's place survive the second.
 *
 * @param {Element} target
 * @param {string} text
 */
export function write(target, text) {
  if (target.textContent !== text) target.textContent = text
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} [signal] ends the wait early; it resolves all the same
 * @returns {Promise<void>}
 */
export function delay(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve()
    function end() {
      clearTimeout(timer)
      signal?.removeEventListener('abort', end)
      resolve()
    }
    const timer = setTimeout(end, milliseconds)
    signal?.addEventListener('abort', end)
  })
}
